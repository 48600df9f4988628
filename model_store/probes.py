"""The probes of an artefact: token sequences of every length, and their expected answers.

    {"tokens": [[...]], "reference": [[...]], "answers": [[...]], "rounding": 0.016}

`reference` holds the scores of the checkpoint in torch f32, with padding only if the model ignores it.
`answers` are the scores that the artefact must give: the reference for float weights; for int8 weights, its
own answers in f32 arithmetic, which the gate has compared with the reference. `rounding` is the largest
change of a score when the output of every layer and every sum is rounded to bf16, which estimates the error
of bf16 for this model; it is UNBOUNDED for one that chooses by what it computes, as a mixture of experts
does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from model_store.artefact import PROBES
from model_store.errors import ModelCorrupt
from model_store.tokens import Tokens, common_start

Scores = NDArray[np.float64]

# The rounding of a model in which it may change any score by any amount.
UNBOUNDED = 1.0
CHOOSES = "it chooses by what it computes, as mixtures of experts do, and rounding may change the choice"
# Every length up to the first, and every second one up to the other: rows have multiples of 16 tokens, so
# each length of a row has eight texts. Beyond it, these: multiples of 16, but not all of 64, as the
# blocks of kernels are. Then each is twice the one before: attention over thousands of tokens takes minutes.
_ONE_BY_ONE, EVERY = 32, 64
_BEYOND = (80, 96, 112, 128, 176, 256, 352, 512, 720, 1024)
# Up to so many texts with so many tokens are tried of each short length: what rounding costs differs most
# between texts of a token or two, so that more pieces are tried alone. The one with the least certain answer
# shows errors best.
_CANDIDATES, _TRIED_TOKENS, _PIECES = 16, 48, 128
# Distance of special ids within the texts that have some.
_SPECIAL_STEP = 9
# Lengths of texts, without special tokens, that are run together to see whether they change each other; that
# of those with special ids inside, and the most such ids.
_SEVERAL, _SHORT, _MAX_EACH = (1, 2, 7, 7, 20, 40, 61), 7, 24
# Decimal digits of the sealed scores.
_DIGITS = 9


@dataclass(frozen=True, slots=True)
class Probes:
    """Token sequences ordered by length; `reference` and `answers` have shape (probes, labels)."""

    tokens: tuple[Tokens, ...]
    reference: Scores
    answers: Scores
    rounding: float


class Source:
    """Generates token sequences of any length from tokenised texts.

    Every second short one, and every long one, contains `special` ids, as texts do in which users write
    "<pad>" or "[SEP]". The long ones leave out the `unnumbered` id, so that they reach the last position.
    """

    def __init__(
        self,
        empty: Tokens,
        texts: Sequence[Tokens],
        special: Sequence[int] = (),
        unnumbered: int | None = None,
    ) -> None:
        sample = max((list(text.ids) for text in texts), key=len)
        self._before = sample[: common_start(empty.ids, sample)]
        self._after = list(empty.ids)[len(self._before) :]
        ends = len(self._before), len(self._after)
        self._pieces = [piece for text in texts for piece in text.ids[ends[0] : len(text) - ends[1]]]
        self._special = cycle(special or [None])
        self._numbered = cycle([one for one in special if one != unnumbered] or [None])
        self._random = Random(0)

    @property
    def least(self) -> int:
        """The tokens of an empty text, at least one."""
        return max(1, len(self._before) + len(self._after))

    def lengths(self, most: int) -> Iterator[int]:
        """All lengths to try: 1 to 32, if they have room for the special tokens, then some, then `most`."""
        known = [*range(self.least, _ONE_BY_ONE + 1), *range(_ONE_BY_ONE + 2, EVERY + 1, 2), *_BEYOND]
        while known[-1] < most:
            known.append(2 * known[-1])
        yield from (length for length in known if length < most)
        yield most

    def text(self, length: int) -> list[int]:
        """Ids of a text of `length` tokens: consecutive pieces of the texts, between special tokens."""
        room = length - len(self._before) - len(self._after)
        start = self._random.randrange(len(self._pieces))
        body = [self._pieces[(start + at) % len(self._pieces)] for at in range(room)]
        place = length if length <= _ONE_BY_ONE else length // 2
        if place % 2 == 0 or length > EVERY:
            special = self._special if length < EVERY else self._numbered
            for at in range(2, room, _SPECIAL_STEP):
                body[at] = body[at] if (one := next(special)) is None else one
        return [*self._before, *body, *self._after]

    def candidates(self, most: int) -> list[list[int]]:
        """Texts of all lengths to try, several of each short one; `chosen` chooses one of each."""
        texts = [
            self.text(length)
            for length in self.lengths(most)
            for _ in range(min(_CANDIDATES, max(1, _TRIED_TOKENS // length)))
        ]
        pieces = sorted({*self._pieces})
        alone = self._random.sample(pieces, min(_PIECES, len(pieces)))
        texts += [[*self._before, piece, *self._after] for piece in alone]
        return sorted((text for text in texts if len(text) <= most), key=len)

    def with_each(self, special: Sequence[int], most: int) -> Iterator[list[int]]:
        """Texts of a few lengths, and short ones with each `special` id once and twice, first and last.

        Some models look for such an id: two of these texts side by side show whether it changes the other.
        """
        room = most - len(self._before) - len(self._after)
        for length in dict.fromkeys(min(self.least + size, most) for size in _SEVERAL):
            yield self.text(length)
        for one in special[:_MAX_EACH]:
            for places in ((0,), (1, 2), (_SHORT - 1,)):
                if room >= _SHORT:
                    text = self.text(self.least + _SHORT)
                    for place in places:
                        text[len(self._before) + place] = one
                    yield text


def chosen(texts: Sequence[Sequence[int]], scores: Scores) -> list[int]:
    """The places of the probes among candidates: the text of each length with the least certain answer."""
    lengths = groupby(range(len(texts)), key=lambda at: len(texts[at]))
    return [min(same, key=_certainty(scores).__getitem__) for _, same in lengths]


def write_probes(path: Path, probes: Probes) -> None:
    """Write probes.json into the artefact directory `path`."""
    content = {
        "tokens": [list(tokens.ids) for tokens in probes.tokens],
        "reference": probes.reference.round(_DIGITS).tolist(),
        "answers": probes.answers.round(_DIGITS).tolist(),
        "rounding": round(probes.rounding, _DIGITS),
    }
    (path / PROBES).write_text(json.dumps(content, separators=(",", ":")) + "\n", "utf-8")


def read_probes(path: Path) -> Probes:
    """The probes of the artefact at `path`. Raises ModelCorrupt."""
    try:
        content = json.loads((path / PROBES).read_text("utf-8"))
        tokens = tuple(Tokens(ids, truncated=0, unknown=0) for ids in content["tokens"])
        reference, answers = (np.array(content[name], np.float64) for name in ("reference", "answers"))
        rounding = float(content["rounding"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path / PROBES} cannot be read: {error}.") from error
    if not tokens or reference.ndim != 2 or len(reference) != len(tokens) or answers.shape != reference.shape:
        raise ModelCorrupt(f"{path / PROBES} does not have one answer for each of its texts.")
    return Probes(tokens, reference, answers, rounding)


def _certainty(scores: Scores) -> Scores:
    """For each text, the distance from 0.5 of its score closest to 0.5: 0 means least certain."""
    certainty: Scores = np.abs(scores - 0.5).min(axis=1)
    return certainty
