"""The proof: an engine must give the sealed answers to the probes of its artefact, alone and in batches.

Each probe runs alone and, unless workers always run it alone, with others: those of up to 64 tokens first or
last in a pair, and in a full batch, those of up to 256 tokens in a full batch, and longer ones in a pair.
Every answer is compared with the sealed one and with that of the same text alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Literal

import numpy as np

from model_store.classifier import Arithmetic, Classifier, Layout, Verdict, Weights
from model_store.probes import EVERY, Probes, Scores
from model_store.rows import plan
from model_store.tokens import in_groups

Kind = Literal["alone", "pair", "full"]
Place = Literal["alone", "first", "last", "middle"]

# Answers that differ by at most this count as equal, and are cached under the same revision.
SAME_ANSWERS = 0.03
# Tokens of a full batch on a processor.
BATCH_TOKENS = 512
# The most tokens of a batch of several texts: workers run longer texts alone.
SHARED_TOKENS = 1024
# Longer texts fill most of a full batch by themselves: they run with one other text.
_MAX_FULL = 256
_SAMPLED = (16, 32, 48, 64, 128, 256, 512)


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest allowed difference from the sealed score (`answers`) and from the text alone (`batched`).

    Independently of these, a label may change only if the best two scores (for a multi-label model, a score
    and 0.5) are closer than `margin`.
    """

    answers: float
    batched: float
    margin: float = 0.1


# The gate of a build: how much int8 weights in f32 arithmetic may differ from the checkpoint in torch f32.
INT8_GATE = Limits(answers=0.3, batched=SAME_ANSWERS, margin=0.3)
_F32 = 1e-4
_BF16_MIN, BF16_MAX = 0.01, 0.1
_INT8 = 0.1


def limits(weights: Weights, arithmetic: Arithmetic, rounding: float) -> Limits:
    """The limits for weights and arithmetic; `rounding` is the error of bf16 for this model (see `Probes`).

    docs/decisions/0800 derives them: f32 differs in the order of summation; bf16 by up to twice the error of
    rounding every layer of this model, within bounds; int8 also in activations that round to another of 256
    steps.
    """
    bf16 = min(max(2 * rounding, _BF16_MIN), BF16_MAX)
    if weights == "int8":
        return Limits(_INT8, SAME_ANSWERS if arithmetic == "f32" else bf16 + SAME_ANSWERS)
    return Limits(_F32, _F32) if arithmetic == "f32" else Limits(bf16, bf16)


@dataclass(frozen=True, slots=True)
class Observation:
    """One answer: its difference from the sealed answer and from the same text alone, and its label."""

    probe: int
    kind: Kind
    place: Place
    answer: float
    batched: float
    same_label: bool
    flipped: bool


@dataclass(slots=True)
class Proof:
    """All observations. `failed` describes the first answer beyond the limits, "" if there is none.

    `alone` holds the answers to each text alone.
    """

    alone: Scores
    seen: list[Observation] = field(default_factory=list)
    batches: int = 0
    seconds: float = 0.0
    failed: str = ""

    @property
    def verdict(self) -> Verdict:
        """The summary of all observations."""
        return Verdict(
            batches=self.batches,
            answers=max((one.answer for one in self.seen), default=0.0),
            batched=max((one.batched for one in self.seen), default=0.0),
            agreement=sum(one.same_label for one in self.seen) / max(len(self.seen), 1),
            flips=sum(one.flipped for one in self.seen),
            seconds=round(self.seconds, 3),
            reason=self.failed,
        )


def prove(
    classifier: Classifier,
    probes: Probes,
    allowed: Limits,
    *,
    to_the_end: bool = False,
    sample: bool = False,
) -> Proof:
    """Run the probes, or a `sample`, through `classifier`. Stops after the first batch that fails, unless
    `to_the_end`.

    Errors of the classifier are not caught.
    """
    began = time.perf_counter()
    info = classifier.info
    proof = Proof(alone=np.full_like(probes.answers, np.nan))
    comparison = _Comparison(probes, proof.alone, info.layout, info.multi_label, allowed)
    lengths = [len(tokens) for tokens in probes.tokens]
    for kind, batch in sampled(lengths) if sample else batches(lengths, info.full_tokens):
        got = np.array(classifier.classify([probes.tokens[at] for at in batch]), np.float64)
        proof.batches += 1
        if got.shape != (len(batch), probes.answers.shape[1]) or not np.isfinite(got).all():
            proof.failed = proof.failed or f"a batch of {len(batch)} texts gave invalid scores"
            break
        for seen in comparison.observe(kind, batch, got):
            proof.seen.append(seen)
            proof.failed = proof.failed or comparison.failure(seen, len(batch))
        if proof.failed and not to_the_end:
            break
    proof.seconds = time.perf_counter() - began
    return proof


def batches(lengths: Sequence[int], full: int = BATCH_TOKENS) -> Iterator[tuple[Kind, list[int]]]:
    """The batches of a proof, as indices of probes ordered by length; every probe runs alone first.

    If a full batch has more tokens than on a processor, there is one of these, too.
    """
    for at in range(len(lengths)):
        yield "alone", [at]
    short = [at for at, length in enumerate(lengths) if length <= EVERY] or [0]
    for at, other in zip(short[::2], [*short[1::2], *short[:1]], strict=False):
        yield "pair", [at, other] if at % 4 else [other, at]
    for at in range(len(short), len(lengths)):
        other = short[at % len(short)]
        if _MAX_FULL < lengths[at] <= SHARED_TOKENS:
            yield "pair", [at, other] if at % 2 else [other, at]
    order = [at for at, length in enumerate(lengths) if length <= _MAX_FULL]
    Random(1).shuffle(order)
    yield from (("full", batch) for batch in _filled(order, lengths))
    if full > BATCH_TOKENS:
        together = sum(lengths[at] for at in order)
        yield "full", order * -(-full // together)


def sampled(lengths: Sequence[int]) -> Iterator[tuple[Kind, list[int]]]:
    """A few batches of a proof: lengths that fill rows of 16 to 128 tokens, then each twice the one before.

    The longest and the shortest are always among them.
    """
    last = len(lengths) - 1
    order = [at for at, length in enumerate(lengths) if at in (0, last) or length in _SAMPLED]
    for at in order:
        yield "alone", [at]
    shared = [at for at in order if lengths[at] <= _SAMPLED[4]]
    for at, other in pairwise(shared):
        yield "pair", [at, other]
    yield from (("full", batch) for batch in _filled(shared, lengths))
    yield from (("full", batch) for batch in _filled(shared[::-1], lengths))


def _filled(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    for group in in_groups((lengths[at] for at in order), BATCH_TOKENS):
        yield [order[at] for at in group]


@dataclass(frozen=True, slots=True)
class _Comparison:
    """Compares answers. `alone` holds the answers to each text alone, filled in as they are computed."""

    probes: Probes
    alone: Scores
    layout: Layout
    multi_label: bool
    allowed: Limits

    def observe(self, kind: Kind, batch: Sequence[int], got: Scores) -> Iterator[Observation]:
        """Yields one observation for each text of a batch."""
        if kind == "alone":
            self.alone[batch[0]] = got[0]
        for at, row, place in zip(batch, got, self._places(batch), strict=True):
            same_label, flipped = self._labels(row, self.probes.answers[at])
            yield Observation(
                probe=at,
                kind=kind,
                place=place,
                answer=float(np.abs(row - self.probes.answers[at]).max()),
                batched=float(np.abs(row - self.alone[at]).max()),
                same_label=same_label,
                flipped=flipped,
            )

    def failure(self, seen: Observation, texts: int) -> str:
        """Describes why an answer is beyond the limits; "" if it is within them."""
        length, allowed = len(self.probes.tokens[seen.probe]), self.allowed
        where = f"a text of {length} tokens " + ("alone" if texts == 1 else f"in a batch of {texts} texts")
        if seen.flipped:
            return f"{where} has another label"
        if seen.answer > allowed.answers:
            return f"{where} differs by {seen.answer:.4f} from the sealed answer"
        if seen.batched > allowed.batched:
            return f"{where} differs by {seen.batched:.4f} from the same text alone"
        return ""

    def _labels(self, row: Scores, sealed: Scores) -> tuple[bool, bool]:
        """Whether the label is the sealed one, and whether it changed beyond the margin."""
        if self.multi_label or len(sealed) == 1:
            other = (row > 0.5) != (sealed > 0.5)
            return not other.any(), bool((other & (np.abs(2 * sealed - 1) > self.allowed.margin)).any())
        second, best = np.sort(sealed)[-2:]
        same = bool(row.argmax() == sealed.argmax())
        return same, not same and bool(best - second > self.allowed.margin)

    def _places(self, batch: Sequence[int]) -> list[Place]:
        """The place of each text in its row, or in the batch if every text has its own row."""
        if len(batch) == 1:
            return ["alone"]
        rows: Sequence[Sequence[int]] = [range(len(batch))]
        if self.layout == "packed":
            rows = plan([len(self.probes.tokens[at]) for at in batch], self.layout).rows
        places: list[Place] = ["middle"] * len(batch)
        for row in rows:
            places[row[-1]] = "last"
            places[row[0]] = "first"
        return places
