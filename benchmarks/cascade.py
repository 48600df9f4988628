"""Makes a small model from the embedded default, and measures a cascade of both.

    python -m benchmarks.cascade --data DATA --out OUT

DATA has SST-2 as docs/training.md describes it. The first layers of the default are trained on its phrases as
`millrace train` does it, in 20 minutes of processor time. Repeated, it only measures.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

from millrace.__main__ import main as millrace
from model_store.prepare import DEFAULT
from model_store.random_model import write_random

LABELS = ("NEGATIVE", "POSITIVE")
_LAYER = "distilbert.transformer.layer."
_COPIED = ("tokenizer.json", "tokenizer_config.json")


def cut(layers: int, out: Path) -> None:
    """Writes the default with only its first `layers` layers, as a base for `millrace train`."""
    from safetensors.torch import load_file, save_file

    out.mkdir()
    weights = load_file(DEFAULT / "model.safetensors")
    kept = {
        name: weight
        for name, weight in weights.items()
        if not name.startswith(_LAYER) or int(name.removeprefix(_LAYER).partition(".")[0]) < layers
    }
    save_file(kept, out / "model.safetensors")
    config = json.loads((DEFAULT / "config.json").read_text("utf-8"))
    (out / "config.json").write_text(json.dumps(config | {"n_layers": layers}, indent=1), "utf-8")
    for name in _COPIED:
        shutil.copy(DEFAULT / name, out)


def with_names(data: Path, out: Path) -> None:
    """Writes a file of SST-2 as CSV, with the default's labels."""
    with data.open(encoding="utf-8") as lines, out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for text, label in (line.rstrip("\n").split("\t") for line in list(lines)[1:]):
            writer.writerow((text, LABELS[int(label)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory with train.tsv and dev.tsv")
    parser.add_argument("--out", type=Path, required=True, help="directory for what is made")
    parser.add_argument("--layers", type=int, default=1, help="layers of the default that are kept (1)")
    args = parser.parse_args()
    train, dev, base, small, large = (
        args.out / name for name in ("train.csv", "dev.csv", "base", "small", "large")
    )
    args.out.mkdir(parents=True, exist_ok=True)
    if not small.exists():
        with_names(args.data / "train.tsv", train)
        with_names(args.data / "dev.tsv", dev)
        shutil.rmtree(base, ignore_errors=True)
        cut(args.layers, base)
        millrace(["train", str(train), "--test", str(dev), "--base", str(base), "--out", str(small)])
    if not large.exists():
        write_random("distilbert-base", large)
    print("\nA part of the default before the default:")
    millrace(["evaluate", str(dev), "--model", str(small), "--cascade", "default"])
    print("\nThe default before distilbert-base with random weights. Only speeds and shares mean something:")
    millrace(["evaluate", str(dev), "--cascade", str(large)])


if __name__ == "__main__":
    main()
