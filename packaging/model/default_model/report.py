"""Computes the figures of a model card: `python -m default_model.report --model DIR --data DIR`.

Only this module evaluates on the dev sentences; training reads them only to exclude them. To choose between
models, compare them on the held-out sentences in their metrics.json, and run this once on the chosen model.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from default_model.augment import detokenise
from default_model.calibration import summary
from default_model.corpus import Row, read_rows
from default_model.trainer import classify
from model_store.checkpoint import read_checkpoint
from model_store.figures import Scores


def natural(text: str) -> str:
    """A treebank sentence as it would be typed: detokenised, and with capitals where they are certain."""
    text = re.sub(r"\bi\b", "I", detokenise(text))
    return text[:1].upper() + text[1:]


def report(model: Path, data: Path, checks: Path | None = None) -> dict[str, Any]:
    """Measure `model` on `data`/dev.tsv as it is and in natural form, and on every TSV in `checks`."""
    temperature = read_checkpoint(model).temperature
    network = AutoModelForSequenceClassification.from_pretrained(model, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)

    def measure(rows: list[Row]) -> dict[str, Any]:
        labels = np.array([int(row.positive) for row in rows], dtype=np.int64)
        scores: Scores = classify(network, tokenizer, [row.text for row in rows])
        return summary(scores, labels, temperature)

    dev = read_rows(data / "dev.tsv")
    results = {
        "temperature": temperature,
        "dev": measure(dev),
        "dev_natural": measure([Row(natural(row.text), row.positive) for row in dev]),
    }
    for path in sorted(checks.glob("*.tsv")) if checks else ():
        results[path.stem] = measure(read_rows(path))
    return results


def main(arguments: list[str] | None = None) -> int:
    """Print the report as JSON. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.report", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the model's directory")
    parser.add_argument("--data", type=Path, required=True, help="folder with dev.tsv")
    parser.add_argument("--checks", type=Path, help="folder of further TSV files")
    args = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(report(args.model, args.data, args.checks), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
