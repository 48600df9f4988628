"""Prints a report on bias and robustness, and exits with status 1 if a limit is broken.

python -m default_model.model_report [--model DIR] [--write CARD.md]
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from default_model.model_report.measures import HERE, Measure, Positive, kinds, people
from model_store.checkpoint import read_checkpoint
from model_store.prepare import DEFAULT
from model_store.rows import softmax

BEGIN, END = "<!-- model-report: begin -->", "<!-- model-report: end -->"


def scorer(model: Path) -> Positive:
    """P(positive) of texts by the checkpoint `model`, computed by torch in f32, with its temperature."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from default_model.trainer import classify

    temperature = read_checkpoint(model).temperature
    network = AutoModelForSequenceClassification.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)

    def positive(texts: Sequence[str]) -> NDArray[np.float64]:
        return softmax(classify(network, tokenizer, texts), temperature)[:, 1]

    return positive


def measure(positive: Positive) -> list[Measure]:
    """Every measure, in the order of the report."""
    goals = read_limits()["goals"]
    return [*people(positive, goals), *kinds(positive, goals)]


def read_limits() -> dict[str, dict[str, float]]:
    """`goals` by kind of measure, and `limits` by measure."""
    book: dict[str, dict[str, float]] = tomllib.loads((HERE / "limits.toml").read_text("utf-8"))
    return book


def broken(measures: Sequence[Measure], limits: dict[str, float]) -> list[str]:
    """The names of the measures that do not keep their limits. Raises KeyError for one without a limit."""
    return [one.name for one in measures if not one.keeps(limits[one.name])]


def table(measures: Sequence[Measure], limits: dict[str, float]) -> str:
    """A Markdown table. Shares are percentages."""
    lines = ["| measure | texts | value | limit | goal | |", "|---|---|---|---|---|---|"]
    for one in measures:
        sign = "≥" if one.least else "≤"
        bounds = " | ".join(f"{sign} {_shown(one, bound)}" for bound in (limits[one.name], one.goal))
        lines.append(f"| {one.name} | {one.texts} | {_shown(one, one.value)} | {bounds} | {one.detail} |")
    return "\n".join(lines) + "\n"


def _shown(one: Measure, value: float) -> str:
    return f"{value:.2f}" if "distance" in one.name else f"{100 * value:.1f} %"


def write(card: Path, text: str) -> None:
    """Replace what stands between the two marks of a model card."""
    content = card.read_text("utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    card.write_text(pattern.sub(lambda _: f"{BEGIN}\n{text}{END}", content), "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and compare with the limits. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.model_report", description=__doc__)
    parser.add_argument("--model", type=Path, default=DEFAULT, help="a checkpoint (default: the embedded)")
    parser.add_argument("--write", type=Path, help="model card in which to replace the report")
    args = parser.parse_args(arguments)
    measures = measure(scorer(args.model))
    limits = read_limits()["limits"]
    text = table(measures, limits)
    sys.stdout.write(text)
    if args.write:
        write(args.write, text)
    names = broken(measures, limits)
    if names:
        sys.stderr.write(f"{len(names)} limits are broken: {', '.join(names)}\n")
    return 1 if names else 0


if __name__ == "__main__":
    sys.exit(main())
