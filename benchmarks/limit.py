"""The limit: the same model and texts with no server around them, per engine, precision and layout.

    python -m benchmarks.limit [--models distilbert-base,default] [--texts 128] [--rounds 3]

Every round runs each combination in turn, so that whatever else the machine does meets all of them; figures
are medians over rounds. `of peak` is the share of what large products of matrices reach on this machine in
the same precision, measured first. `waste` is the share of computed tokens that are filler. The cost model,
a + b times the tokens of a batch, is fitted over packed batches of different sizes (padded ones where nothing
packs).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from benchmarks import report
from benchmarks.operations import Peaks, Shape
from benchmarks.texts import texts
from model_store import Classifier, Layout, ModelError, Tokens, load
from model_store.random_model import SHAPES, write_random
from model_store.rows import computed_tokens, share_out

Order = Literal["arrival", "sorted"]
ENGINES = ("torch-f32", "torch-bf16", "openvino-f32", "openvino-bf16", "openvino-int8")
# Layout, order, tokens of a batch. In order of arrival, padded batches get worse as they grow.
VARIANTS: tuple[tuple[Layout, Order, int], ...] = (
    ("packed", "arrival", 128),
    ("packed", "arrival", 256),
    ("packed", "arrival", 512),
    ("packed", "arrival", 1024),
    ("padded", "arrival", 256),
    ("padded", "sorted", 256),
    ("padded", "sorted", 512),
)
Batch = list[Tokens]


@dataclass(slots=True)
class Case:
    """One combination, and the seconds each round took."""

    model: str
    engine: str
    layout: str
    order: Order
    batch_tokens: int
    classifier: Classifier = field(repr=False)
    batches: list[Batch] = field(repr=False)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Classify all texts once and remember how long it took."""
        start, cpu_start = time.perf_counter(), time.process_time()
        for batch in self.batches:
            self.classifier.classify(batch)
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu_start)


@dataclass(frozen=True, slots=True)
class Figure:
    """What a case came to."""

    model: str
    engine: str
    layout: str
    order: Order
    batch_tokens: int
    texts_per_s: float
    texts_per_cpu_s: float
    waste: float
    of_peak: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of one batch: `a_ms` plus `b_ms` for each token."""

    model: str
    engine: str
    a_ms: float
    b_ms: float


def main() -> None:
    args = _arguments()
    peaks = Peaks.measure()
    figures: list[Figure] = []
    costs: list[Cost] = []
    for model in args.models.split(","):
        report.progress(f"{model}: building")
        cases = list(_cases(model, args))
        for number in range(args.rounds + 1):
            report.progress(f"{model}: round {number} of {args.rounds}" if number else f"{model}: warming up")
            for case in cases:
                case.run()
                if number == 0:  # shapes are met for the first time
                    case.seconds.clear()
                    case.cpu_seconds.clear()
        shape = Shape.of(reference(model, args.artefact_dir))
        figures += [_figure(case, shape, peaks) for case in cases]
        costs += list(_costs(cases))
        for case in cases:
            case.classifier.close()
    _show(_best(figures), costs)
    found = {"figures": list(map(asdict, figures)), "costs": list(map(asdict, costs))}
    report.finish("limit", {"peaks": peaks.per_s, **found})


def _cases(model: str, args: argparse.Namespace) -> Iterator[Case]:
    named = reference(model, args.artefact_dir)
    samples = texts(args.texts, seed=1)
    for engine in args.engines.split(","):
        name, precision = engine.split("-")
        for layout, of_layout in groupby(VARIANTS, key=lambda variant: variant[0]):
            try:
                classifier = load(
                    named,
                    engine=name,
                    precision=precision,
                    layout=layout,
                    threads=args.threads,
                    artefact_dir=args.artefact_dir,
                )
            except ModelError as error:
                report.progress(f"{model} {engine} {layout}: {error}")
                continue
            tokens = classifier.tokenize(samples)
            for _, order, size in of_layout:
                yield Case(model, engine, layout, order, size, classifier, _cut(tokens, layout, order, size))


def _cut(tokens: Sequence[Tokens], layout: Layout, order: Order, size: int) -> list[Batch]:
    """Passes of about `size` computed tokens: as texts arrive, or sorted over the whole backlog."""
    lengths = [len(one) for one in tokens]
    if layout == "padded" and order == "arrival":
        batches: list[Batch] = [[]]
        for one in tokens:
            longest = max(map(len, (*batches[-1], one)))
            if batches[-1] and longest * (len(batches[-1]) + 1) > size:
                batches.append([])
            batches[-1].append(one)
        return batches
    return [[tokens[index] for index in indices] for indices in share_out(lengths, layout, size)]


def reference(model: str, artefact_dir: Path) -> str:
    """What `load` takes for a model of the benchmarks; one with random weights is written the first time."""
    if model not in SHAPES:
        return model
    path = artefact_dir.expanduser() / "random" / model
    if not path.exists():
        write_random(model, path)
    return str(path)


def _figure(case: Case, shape: Shape, peaks: Peaks) -> Figure:
    count = sum(map(len, case.batches))
    lengths = [len(tokens) for batch in case.batches for tokens in batch]
    real = sum(lengths)
    layout = case.classifier.info.layout
    computed = _computed(case.batches, layout)
    return Figure(
        case.model,
        case.engine,
        case.layout,
        case.order,
        case.batch_tokens,
        texts_per_s=count / median(case.seconds),
        texts_per_cpu_s=count / median(case.cpu_seconds),
        waste=1 - real / computed,
        of_peak=peaks.share(case.classifier.info.precision, shape.operations(lengths) / median(case.seconds)),
    )


def _computed(batches: Sequence[Batch], layout: Layout) -> int:
    return sum(computed_tokens([len(tokens) for tokens in batch], layout) for batch in batches)


def _best(figures: Sequence[Figure]) -> list[Figure]:
    """Of each combination, the batch size that is fastest."""
    best: dict[tuple[str, ...], Figure] = {}
    for one in figures:
        key = (one.model, one.engine, one.layout, one.order)
        if key not in best or best[key].texts_per_s < one.texts_per_s:
            best[key] = one
    return list(best.values())


def _costs(cases: Sequence[Case]) -> Iterator[Cost]:
    """Least squares over the cases of one classifier: total seconds = batches * a + computed tokens * b."""
    for engine in dict.fromkeys(case.engine for case in cases):
        chosen = [case for case in cases if case.engine == engine and case.layout == "packed"]
        chosen = chosen or [case for case in cases if case.engine == engine and case.order == "sorted"]
        layout = chosen[0].classifier.info.layout
        counted = [(len(case.batches), _computed(case.batches, layout)) for case in chosen]
        seconds = [median(case.seconds) for case in chosen]
        (a, b), *_ = np.linalg.lstsq(np.array(counted, float), np.array(seconds), rcond=None)
        yield Cost(chosen[0].model, engine, a_ms=a * 1e3, b_ms=b * 1e3)


def _show(figures: Sequence[Figure], costs: Sequence[Cost]) -> None:
    slowest = {
        one.model: one.texts_per_s
        for one in figures
        if (one.engine, one.layout, one.order) == ("torch-f32", "padded", "sorted")
    }
    report.table(
        ["best batch size", "batch tokens", "texts/s", "of peak", "x torch f32", "texts/CPU s", "waste"],
        [
            [
                f"{one.model} {one.engine} {one.layout} {one.order}",
                one.batch_tokens,
                f"{one.texts_per_s:.0f}",
                f"{one.of_peak:.2f}",
                f"{one.texts_per_s / slowest[one.model]:.2f}" if one.model in slowest else "",
                f"{one.texts_per_cpu_s:.0f}",
                f"{one.waste:.1%}",
            ]
            for one in figures
        ],
    )
    report.table(
        ["a batch: a + b x tokens", "a, ms", "b, us/token"],
        [[f"{one.model} {one.engine}", f"{one.a_ms:.2f}", f"{one.b_ms * 1e3:.1f}"] for one in costs],
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", default="distilbert-base,default", help="shapes of random models, or references"
    )
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: the cores this process may use")
    parser.add_argument("--artefact-dir", type=Path, default=Path("~/.cache/millrace"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
