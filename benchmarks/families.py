"""The speeds of the model families by engine: the table in docs/families.md.

    python -m benchmarks.families [--shapes bert-base,...] [--rounds 3]

Each shape has random weights and runs packed batches of about 512 tokens, with one engine after the other in
each round. Figures are texts per second of processor time on one thread, medians over rounds, which other
processes hardly change. int8 weights run in f32 arithmetic. Converted models stay in `--artefact-dir`, so
later runs begin at once; `--rounds 0` only converts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.limit import reference
from benchmarks.texts import texts
from model_store.artefact import TOKENIZER, Manifest
from model_store.calibration_texts import CALIBRATION_TEXTS
from model_store.checkpoint import Checkpoint, read_checkpoint
from model_store.classifier import Arithmetic, Engine, Weights
from model_store.engines.converter import convert
from model_store.engines.openvino_ir import MODEL
from model_store.engines.runner import make_runner
from model_store.inputs import Inputs
from model_store.random_model import SHAPES
from model_store.rows import Rows, Runner, Tokenizer, arrange, share_out
from model_store.weights import Safetensors

ENGINES: dict[str, tuple[Engine, Weights, Arithmetic]] = {
    "torch f32": ("torch", "float", "f32"),
    "OpenVINO f32": ("openvino", "float", "f32"),
    "OpenVINO bf16": ("openvino", "float", "bf16"),
    "OpenVINO int8": ("openvino", "int8", "f32"),
}
# One shape of each family; RoBERTa and XLM-R cost what BERT does.
DEFAULT = [name for name in SHAPES if name not in ("tiny", "minilm", "roberta-base", "deberta-v3-base")]
# Texts that int8 weights are calibrated with: speed does not depend on them.
_CALIBRATION = 16


def runners(checkpoint: Checkpoint, engines: Sequence[str], threads: int) -> Iterator[Runner]:
    """One runner for each engine. Converts what is not there yet."""
    tokens = Tokenizer(checkpoint.path / TOKENIZER, checkpoint.max_tokens)(CALIBRATION_TEXTS[:_CALIBRATION])
    for engine, weights, arithmetic in map(ENGINES.__getitem__, engines):
        path = checkpoint.path
        if engine == "openvino":
            path = checkpoint.path / weights
            if not (path / MODEL).is_file():
                path.mkdir(exist_ok=True)
                convert(checkpoint, path, Inputs(checkpoint.unnumbered), weights=weights, calibration=tokens)
        manifest = Manifest(
            name=checkpoint.path.name,
            revision="",
            identity="",
            source="",
            labels=checkpoint.labels,
            multi_label=checkpoint.multi_label,
            max_tokens=checkpoint.max_tokens,
            temperature=checkpoint.temperature,
            engine=engine,
            weights=weights,
            rows=checkpoint.packable,
            parameters=0,
            files={},
        )
        yield make_runner(path, manifest, threads, arithmetic)


def packed(checkpoint: Checkpoint, count: int) -> list[Rows]:
    """The same `count` texts for every family, in packed batches."""
    tokens = Tokenizer(checkpoint.path / TOKENIZER, checkpoint.max_tokens)(texts(count, seed=1))
    chosen = share_out([len(one) for one in tokens], "packed")
    inputs = Inputs(checkpoint.unnumbered)
    return [arrange([tokens[at] for at in indices], "packed", inputs=inputs) for indices in chosen]


def measure(shape: str, args: argparse.Namespace) -> list[float]:
    """Texts per second of processor time by engine; nothing without rounds."""
    report.progress(shape)
    checkpoint = read_checkpoint(Path(reference(shape, args.artefact_dir)))
    opened = list(runners(checkpoint, args.engines.split(","), args.threads))
    batches = packed(checkpoint, args.texts)
    seconds: list[list[float]] = [[] for _ in opened]
    for number in range(args.rounds + 1 if args.rounds else 0):
        for runner, spent in zip(opened, seconds, strict=True):
            began = time.process_time()
            for rows in batches:
                runner.run(rows)
            if number:  # shapes are met for the first time in the first round
                spent.append(time.process_time() - began)
    for runner in opened:
        runner.close()
    speeds = [args.texts / median(spent) for spent in seconds if spent]
    report.progress(f"{shape}: {', '.join(f'{speed:.1f}' for speed in speeds)} texts/CPU s")
    return speeds


def show(figures: dict[str, Sequence[float]], engines: Sequence[str], parameters: dict[str, int]) -> None:
    """Prints the table in Markdown."""
    print(f"| shape | million parameters | {' | '.join(engines)} |")
    print("|---" * (len(engines) + 2) + "|")
    for shape, speeds in figures.items():
        cells = [shape, f"{parameters[shape] / 1e6:.0f}", *(f"{speed:.0f}" for speed in speeds)]
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default=",".join(DEFAULT))
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--artefact-dir", type=Path, default=Path("~/.cache/millrace"))
    args = parser.parse_args()
    figures: dict[str, Sequence[float]] = {shape: measure(shape, args) for shape in args.shapes.split(",")}
    parameters = {
        shape: Safetensors(Path(reference(shape, args.artefact_dir))).parameters for shape in figures
    }
    show(figures, args.engines.split(","), parameters)
    report.finish("families", {"texts_per_cpu_s": figures, "parameters": parameters})


if __name__ == "__main__":
    main()
