"""Says what labelled texts are like, and refuses what cannot be learned. Standard library only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import category, normalize

from model_store.errors import BadTraining
from model_store.training.table import LabelledRow, Table

MAX_LABELS = 1000
# Groups of similar labels, and labels, that are listed at most.
_MAX_SIMILAR, _MAX_LISTED = 10, 30
_SURROUNDING = re.compile(r"""^[\s"'“”„‘’«»]+|[\s"'“”„‘’«»]+$""")

_number = re.compile(r"[+-]?[0-9]{1,15}([.][0-9]{1,15})?").fullmatch
# How programs write that a value is missing.
_MISSING = frozenset(("nan", "n/a", "#n/a", "na", "none", "null"))


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in the data. `in_both` counts training texts that also stand in the test part."""

    name: str
    total: int
    used: int
    empty: int
    unlabelled: int
    rejected: int
    duplicates: int
    contradictions: int
    in_both: int
    over_long: int
    labels: dict[str, int]
    multi_label: bool

    def lines(self) -> list[str]:
        """The report, a line each."""
        sample = self.total - self.empty - self.unlabelled - self.rejected
        most, least = max(self.labels.values()), min(self.labels.values())
        lines = [
            f"rows                 {self.total:,} in {self.name}",
            *(
                f"{name:<20} {count:,}: {meaning}"
                for name, count, meaning in (
                    ("not read", sample - self.used, f"a random sample of {self.used:,} rows is used"),
                    ("without text", self.empty, "left out"),
                    ("without label", self.unlabelled, "left out"),
                    ("not accepted", self.rejected, "their `answer` is reject or ignore; left out"),
                    ("duplicates", self.duplicates, "the same text with the same labels; used once"),
                    ("contradictions", self.contradictions, "texts with different labels in different rows"),
                    ("in both parts", self.in_both, "left out of training, because the test has them too"),
                    ("too long", self.over_long, "the model reads only their beginning"),
                )
                if count
            ),
            f"labels               {len(self.labels)}, {'any number' if self.multi_label else 'one'} a text; "
            f"the commonest has {most / least:.1f} times the rows of the rarest",
        ]
        width = max(map(len, self.labels))
        shown = list(self.labels.items())[:_MAX_LISTED]
        lines += [f"  {label:<{width}}  {count:,} ({count / self.used:.1%})" for label, count in shown]
        if len(self.labels) > _MAX_LISTED:
            lines.append(f"  and {len(self.labels) - _MAX_LISTED} more")
        return lines + self._warnings()

    def similar(self) -> list[list[str]]:
        """Groups of labels that are probably the same one, written differently."""
        groups: dict[str, list[str]] = {}
        for label in self.labels:
            groups.setdefault(_plain(label), []).append(label)
        return [group for group in groups.values() if len(group) > 1]

    def _warnings(self) -> list[str]:
        groups, lines = self.similar(), []
        for group in groups[:_MAX_SIMILAR]:
            counted = " and ".join(f"{spelt(label)} ({self.labels[label]:,} rows)" for label in group)
            lines.append(
                f"warning              {counted} are different labels: if they mean the same, write them "
                "alike and train again"
            )
        more = len(groups) - _MAX_SIMILAR
        lines += [f"warning              {more} more groups of similar labels"] if more > 0 else []
        return lines + [
            f"warning              the label {spelt(label)} ({count:,} rows) looks like a missing value: if "
            "it is one, leave it empty and train again"
            for label, count in self.labels.items()
            if label.casefold() in _MISSING
        ]


def spelt(label: str) -> str:
    """A label in quotes, with escapes for what cannot be seen: invisible and decomposed characters."""
    return repr(label) if normalize("NFC", label) == label else ascii(label)


def _plain(label: str) -> str:
    """A label without differences in case, Unicode form, quotes, white space, invisible signs and zeros."""
    folded = normalize("NFKC", normalize("NFKC", label).casefold())
    visible = "".join(letter for letter in folded if category(letter) not in ("Cf", "Cc") or letter.isspace())
    plain = " ".join(_SURROUNDING.sub("", visible).split()) or label
    return str(float(plain)) if _number(plain) else plain


def normal(text: str) -> str:
    """The form in which texts are compared: without differences in case and white space."""
    return " ".join(text.casefold().split())


def without_duplicates(rows: Iterable[LabelledRow]) -> list[LabelledRow]:
    """The first row of each text and labels."""
    kept: dict[tuple[str, tuple[str, ...]], LabelledRow] = {}
    for row in rows:
        kept.setdefault((normal(row.text), tuple(sorted(row.labels))), row)
    return list(kept.values())


def survey(
    table: Table, train: Sequence[LabelledRow], *, multi_label: bool, in_both: int, over_long: int
) -> Survey:
    """Describe the rows of `table`; `train` are those left for training. Raises BadTraining."""
    texts = Counter(normal(row.text) for row in without_duplicates(table.rows))
    counts = Counter(label for row in table.rows for label in row.labels)
    found = Survey(
        name=table.name,
        total=table.total,
        used=len(table.rows),
        empty=table.empty,
        unlabelled=table.unlabelled,
        rejected=table.rejected,
        duplicates=len(table.rows) - sum(texts.values()),
        contradictions=sum(count > 1 for count in texts.values()),
        in_both=in_both,
        over_long=over_long,
        labels=dict(counts.most_common()),
        multi_label=multi_label,
    )
    _refuse(found, train)
    return found


def _refuse(found: Survey, train: Sequence[LabelledRow]) -> None:
    labels = list(found.labels)
    least = 1 if found.multi_label else 2
    if len(labels) < least:
        only = f"only one label ({labels[0]!r})" if labels else "no label"
        raise BadTraining(f"{found.name} has {only}, so there is nothing to tell apart.")
    if len(labels) > MAX_LABELS or (found.used > 20 and len(labels) > found.used / 2):
        raise BadTraining(
            f"{found.name} has {len(labels):,} labels for {found.used:,} texts: is --label-column right?"
        )
    left = Counter(label for row in train for label in row.labels)
    if rare := [label for label in labels if found.labels[label] < 2]:
        more = f" (and {len(rare) - 1} more)" if len(rare) > 1 else ""
        group = next((group for group in found.similar() if rare[0] in group), [])
        other = next((label for label in group if label != rare[0]), None)
        instead = f", or write it as {spelt(other)} if it means the same" if other else ""
        raise BadTraining(
            f"The label {spelt(rare[0])}{more} has fewer than two texts: add some or leave it out{instead}."
        )
    if lost := next((label for label in labels if not left[label]), None):
        raise BadTraining(f"All texts of the label {lost!r} are in the test part, so it cannot be learned.")
