"""`verify --run`: proves each arithmetic and layout of a model on this processor, and prints tables."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from model_store.arguments import threads
from model_store.artefact import verify
from model_store.choosing import arithmetics, layouts
from model_store.classifier import Arithmetic, Layout
from model_store.engines.runner import open_verified
from model_store.errors import Unproven
from model_store.prepare import prepare
from model_store.probes import Probes
from model_store.proof import SAME_ANSWERS, Observation, Proof, limits, prove

# Upper ends of the groups of lengths, in tokens.
GROUPS = (16, 32, 48, 64, 128, 256, 512, 1 << 30)
_COLUMNS: dict[str, Callable[[Observation], bool]] = {
    "alone": lambda seen: seen.kind == "alone",
    "pair": lambda seen: seen.kind == "pair",
    "full": lambda seen: seen.kind == "full",
    "first": lambda seen: seen.place == "first",
    "last": lambda seen: seen.place == "last",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """The largest differences of one group in one kind of batch, and labels changed beyond the margin."""

    answers: float
    batched: float
    flips: int


def proofs(args: Namespace) -> Iterator[str]:
    """Yields lines to print. Raises Unproven if no arithmetic passes in any layout."""
    count = threads(args)
    path = prepare(args.reference, args.engine, args.precision, args.artefact_dir.expanduser())
    manifest = verify(path)
    passed = False
    for arithmetic in arithmetics(manifest.engine, args.precision):
        for layout in layouts(manifest, "auto"):
            yield ""
            yield f"{manifest.engine}, {manifest.weights} weights in {arithmetic}, {layout}"
            try:
                proof, probes = _run(path, arithmetic, layout, count)
            except Exception as error:  # an engine may raise anything if the processor lacks an instruction
                yield f"FAILED: it raised {type(error).__name__}: {error}"
                continue
            yield from lines(proof, probes)
            passed = passed or not proof.failed
    if not passed:
        raise Unproven(
            f"{manifest.name} does not pass its proof in any arithmetic and layout on this processor."
        )


def _run(path: Path, arithmetic: Arithmetic, layout: Layout, threads: int) -> tuple[Proof, Probes]:
    manifest = verify(path)
    opened = open_verified(path, manifest, arithmetic=arithmetic, layout=layout, threads=threads)
    with closing(opened) as classifier:
        allowed = limits(manifest.weights, arithmetic, classifier.probes.rounding)
        return prove(classifier, classifier.probes, allowed, to_the_end=True), classifier.probes


def lines(proof: Proof, probes: Probes) -> Iterator[str]:
    """Yields a row for each group of lengths: the largest difference from the sealed answer, after a slash
    from the same text alone, and after an exclamation mark the number of flips.
    """
    table = cells(proof, [len(tokens) for tokens in probes.tokens])
    yield f"{'tokens':<10}" + "".join(f"{name:>23}" for name in _COLUMNS)
    for group, row in table.items():
        yield f"{group:<10}" + "".join(f"{_shown(cell):>23}" for cell in row)
    verdict = proof.verdict
    name = "one revision with f32" if verdict.answers <= SAME_ANSWERS else "as a separate revision"
    yield (
        f"{'FAILED: ' + verdict.reason if verdict.reason else 'passed, ' + name}; "
        f"{verdict.batches} batches in {verdict.seconds:.2f} s, {verdict.agreement:.2%} with the sealed label"
    )


def cells(proof: Proof, lengths: Sequence[int]) -> dict[str, list[Cell | None]]:
    """Observations by group of lengths; None if a group has no such batch."""
    table: dict[str, list[Cell | None]] = {}
    begin = 1
    for end in GROUPS:
        seen = [one for one in proof.seen if begin <= lengths[one.probe] <= end]
        if seen:
            name = f"{begin}-{min(end, max(lengths))}"
            table[name] = [_cell([one for one in seen if fits(one)]) for fits in _COLUMNS.values()]
        begin = end + 1
    return table


def _cell(seen: Sequence[Observation]) -> Cell | None:
    if not seen:
        return None
    return Cell(
        max(one.answer for one in seen),
        max(one.batched for one in seen),
        sum(one.flipped for one in seen),
    )


def _shown(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.answers:.5f} / {cell.batched:.5f}" + (f" !{cell.flips}" if cell.flips else "")
