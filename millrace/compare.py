"""`millrace compare`: what the shadow of a model would have answered, as a table."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from millrace.service_client import AdminClient, add_client_arguments, add_model_argument

# With more labels than this, only the pairs that differ are printed.
MAX_LABELS = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_argument(parser)
    add_client_arguments(parser, AdminClient)


def run(args: argparse.Namespace) -> int:
    found = AdminClient.of(args).get("/admin/models/comparison", model=args.model)
    print("\n".join(lines(found)))
    return 0


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The comparison in readable form."""
    current, candidate, texts = found["current"], found["candidate"]["number"], found["texts"]
    yield f"{found['model']}: publication {current} answers, publication {candidate} is compared with it"
    yield f"{texts} texts compared, {found['failed']} failed, {found['dropped']} dropped"
    if not texts:
        return
    if len(revisions := found.get("revisions", {})) > 1:
        each = ", ".join(f"{revision} ({count} texts)" for revision, count in revisions.items())
        yield f"publication {current} was of several revisions, whose texts are added up: {each}"
    batch, text = found["batch_ms"], found["text_ms"]
    facts = {
        "same label": f"{found['agreement']:.2%} ({texts - found['agree']} changed)",
        "difference of scores": f"{found['mean_difference']:.5f} on average",
        "model ms, batch": f"{batch['current']:.3f}, candidate {batch['candidate']:.3f}",
        "model ms, text": f"{text['current']:.3f}, candidate {text['candidate']:.3f}",
    }
    for name, value in facts.items():
        yield f"{name:<22}{value}"
    yield ""
    yield from _matrix(found["labels"])


def _matrix(labels: dict[str, dict[str, int]]) -> Iterator[str]:
    """Rows are labels of the publication that answers, columns those of the candidate."""
    names = sorted({*labels, *(name for row in labels.values() for name in row)})
    if len(names) > MAX_LABELS or not names:
        pairs = [(n, a, b) for a, row in labels.items() for b, n in row.items() if a != b]
        for count, one, other in sorted(pairs, reverse=True):
            yield f"{count:>8}  {one} -> {other}"
        return
    first = max(len("answer"), *map(len, names))
    width = max(6, *map(len, names)) + 2
    yield f"{'answer':<{first}}" + "".join(f"{name:>{width}}" for name in names)
    for one in names:
        row = labels.get(one, {})
        yield f"{one:<{first}}" + "".join(f"{row.get(other, 0):>{width}}" for other in names)
