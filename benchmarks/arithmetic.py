"""What int8 weights cost with f32 arithmetic instead of bf16: texts/s of the model alone, in turns.

python -m benchmarks.arithmetic [--models default,distilbert-base] [--texts 96] [--rounds 7]

The two graphs run the same batches one after the other in every round, so that whatever else the machine does
meets both. The ratio is the median over rounds. Where bf16 arithmetic gives wrong answers (docs/precision.md)
f32 is served, so this is the price of being right.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.limit import reference
from benchmarks.operations import Peaks, Shape
from benchmarks.texts import texts
from model_store import Layout
from model_store.artefact import verify
from model_store.hardware import cores
from model_store.prepare import prepare
from model_store.rows import Rows, Tokenizer, arrange, share_out

import openvino  # isort: skip  # after model_store, which turns off what it reports

ARITHMETICS = ("f32", "bf16")
BATCH_TOKENS = 512


class Graph:
    """The int8 graph of an artefact, compiled for one arithmetic."""

    def __init__(self, path: Path, arithmetic: str) -> None:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": arithmetic,
        }
        compiled = openvino.Core().compile_model(path / "model.xml", "CPU", options)
        self._request = compiled.create_infer_request()

    def seconds(self, batches: list[Rows]) -> float:
        """How long it takes to run all of `batches` once."""
        began = time.perf_counter()
        for rows in batches:
            self._request.infer([rows.ids, rows.positions, rows.segments, rows.first], share_inputs=True)
        return time.perf_counter() - began


def measure(model: str, count: int, rounds: int, artefact_dir: Path, peaks: Peaks) -> dict[str, Any]:
    """Texts/s of each arithmetic, its share of the peak, and the median ratio of f32 to bf16."""
    named = reference(model, artefact_dir)
    path = prepare(named, "openvino", "int8", artefact_dir)
    manifest = verify(path)
    layout: Layout = "packed" if manifest.rows else "padded"
    tokens = Tokenizer(path / "tokenizer.json", manifest.max_tokens)(texts(count, seed=1))
    plan = share_out([len(one) for one in tokens], layout, BATCH_TOKENS)
    laid_out = partial(arrange, layout=layout, most=manifest.max_tokens, inputs=manifest.inputs)
    batches = [laid_out([tokens[index] for index in chosen]) for chosen in plan]
    graphs = {arithmetic: Graph(path, arithmetic) for arithmetic in ARITHMETICS}
    seconds: dict[str, list[float]] = {arithmetic: [] for arithmetic in ARITHMETICS}
    for turn in range(rounds + 1):
        report.progress(f"{model}: round {turn} of {rounds}" if turn else f"{model}: warming up")
        for arithmetic in ARITHMETICS if turn % 2 else reversed(ARITHMETICS):
            spent = graphs[arithmetic].seconds(batches)
            if turn:  # shapes are met for the first time in the first
                seconds[arithmetic].append(spent)
    rates = {arithmetic: count / median(spent) for arithmetic, spent in seconds.items()}
    pairs = zip(seconds["bf16"], seconds["f32"], strict=True)
    operations = Shape.of(named).operations([len(one) for one in tokens]) / count
    shares = {arithmetic: peaks.share("int8", rate * operations) for arithmetic, rate in rates.items()}
    ratio = median(bf16 / f32 for bf16, f32 in pairs)
    return {"texts_per_s": rates, "of_peak": shares, "f32_to_bf16": ratio}


def main() -> None:
    """Measures, shows and writes bench-results/arithmetic.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--models", default="default,distilbert-base")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--artefact-dir", type=Path, default=Path("~/.cache/millrace"))
    args = parser.parse_args()
    directory = args.artefact_dir.expanduser()
    peaks, models = Peaks.measure(), args.models.split(",")
    found = {name: measure(name, args.texts, args.rounds, directory, peaks) for name in models}
    report.table(
        ["int8 weights, texts/s (of peak)", *ARITHMETICS, "f32 / bf16"],
        [
            [
                name,
                *(f"{got['texts_per_s'][one]:.0f} ({got['of_peak'][one]:.2f})" for one in ARITHMETICS),
                f"{got['f32_to_bf16']:.2f}",
            ]
            for name, got in found.items()
        ],
    )
    report.finish("arithmetic", {"peaks": peaks.per_s, "models": found})


if __name__ == "__main__":
    main()
