"""Fits a model's temperatures: `python -m default_model.domains.calibrate --model DIR --sets DIR`.

One is for all texts, and one more for texts in windows: the mean of their margins is more cautious than it
should be. Both have the least log loss on the parts `choose`, and go into config.json with the windows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from default_model.domains.sets import LabelledSet, read_mixture
from model_store import load
from model_store.checkpoint import CONFIG, with_settings
from model_store.convert import write_json
from model_store.evaluate import classify_all
from model_store.figures import Labels, Scores, fit_temperature

ROWS = 300  # at most, of each set, so that each counts


def calibrate(model: Path, sets: Iterable[LabelledSet], windows: str) -> tuple[float, float]:
    """Fit both temperatures and write them to the model's config. Returns them."""
    _write(model, 1.0, windows)
    rows = [row for one in sets for row in one.choose[:ROWS] if row.positive != 0.5]
    logits, long = _logits(model, [row.text for row in rows])
    labels: Labels = np.array([int(row.positive) for row in rows], dtype=np.int64)
    temperature = fit_temperature(logits[~long], labels[~long])
    joined = fit_temperature(logits[long] / temperature, labels[long]) if long.any() else 1.0
    _write(model, temperature, f"{windows}:{joined:g}")
    return temperature, joined


def _logits(model: Path, texts: Sequence[str]) -> tuple[Scores, NDArray[np.bool_]]:
    """The logarithms of the scores (texts, 2), and which texts are in windows."""
    with TemporaryDirectory() as scratch:
        classifier = load(str(model), precision="f32", artefact_dir=Path(scratch))
        scores, _ = classify_all(classifier, texts)
        long = np.array([bool(tokens.windows) for tokens in classifier.tokenize(texts)])
        classifier.close()
    return np.log(np.maximum(scores, 1e-12)), long


def _write(model: Path, temperature: float, windows: str) -> None:
    config = json.loads((model / CONFIG).read_text("utf-8"))
    write_json(model / CONFIG, with_settings(config, temperature=temperature, text_windows=windows))


def main(arguments: list[str] | None = None) -> int:
    """Calibrate as the command line says. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.domains.calibrate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="directory of the model, which is changed")
    parser.add_argument("--sets", type=Path, required=True, help="folder of the sets, as NAME.tsv")
    parser.add_argument("--windows", default="126:31:mean", help="TOKENS:OVERLAP:JOIN (default: 126:31:mean)")
    args = parser.parse_args(arguments)
    temperature, joined = calibrate(args.model, read_mixture(args.sets).sets, args.windows)
    sys.stdout.write(f"temperature {temperature:g}, of windows {joined:g}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
