"""Averages the weights of finished runs: `python -m default_model.soup --data DIR --out DIR RUN RUN ...`.

A run that is named twice counts twice. At least one must have its metrics.

Runs that start from the same converted base, including the head, end so close to each other that the mean of
their weights is a model, which is often better than each of them (Wortsman et al., "Model soups", 2022).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from default_model.recipe import Recipe
from default_model.train import METRICS, load_split
from default_model.trainer import classify, held_out_texts
from model_store.convert import export
from model_store.figures import fit_temperature, log_loss


def average(runs: Sequence[Path]) -> Any:
    """The model whose weights are the mean of those of `runs`. Raises ValueError if their shapes differ."""
    models = [AutoModelForSequenceClassification.from_pretrained(run, local_files_only=True) for run in runs]
    states = [model.state_dict() for model in models]
    for run, state in zip(runs, states, strict=True):
        if any(state[name].shape != tensor.shape for name, tensor in states[0].items()):
            raise ValueError(f"{run} and {runs[0]} are models of different shapes")
    models[0].load_state_dict(mean_of(states))
    return models[0]


def mean_of(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights, each by its name. All have the names and shapes of the first."""
    return {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}


def soup(runs: Sequence[Path], data: Path, out: Path, offset: float = 0.0) -> dict[str, Any]:
    """Average `runs` into `out`, with a temperature fitted on the held-out sentences they share.

    `offset` is added to the margin, the second label's logit minus the first's. Returns the metrics, which
    are also written next to the model. Raises ValueError if the runs held out different sentences.
    """
    found = [run / METRICS for run in runs if (run / METRICS).is_file()]  # the embedded model has none
    metrics = [json.loads(path.read_text("utf-8")) for path in found]
    recipes = [Recipe(**entry["recipe"]) for entry in metrics]
    if len({(recipe.held_out, recipe.limit) for recipe in recipes}) > 1:
        raise ValueError("the runs held out different sentences")
    model = average(runs)
    with torch.no_grad():
        model.classifier.bias += torch.tensor([-offset / 2, offset / 2])
    held_out = load_split(data, recipes[0]).held_out
    tokenizer = AutoTokenizer.from_pretrained(runs[0], local_files_only=True)
    result: dict[str, Any] = {"runs": metrics}
    for case, natural in (("natural", True), ("tokenised", False)):
        texts, labels = held_out_texts(held_out, natural=natural)
        scores = classify(model, tokenizer, texts)
        result[f"{case}_accuracy"] = float((scores.argmax(axis=1) == labels).mean())
        result[f"{case}_loss"] = log_loss(scores, labels)
    result["temperature"] = fit_temperature(scores, labels)
    export(model, runs[0], out, temperature=result["temperature"])
    (out / METRICS).write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return result


def main(arguments: list[str] | None = None) -> int:
    """Average the runs that the command line names. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m default_model.soup", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of the data that the runs were trained on"
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for the averaged model")
    parser.add_argument("runs", type=Path, nargs="+", help="directories of finished runs")
    parser.add_argument("--offset", type=float, default=0.0, help="add this to the margin (default: 0)")
    args = parser.parse_args(arguments)
    result = soup(args.runs, args.data, args.out, args.offset)
    sys.stdout.write(json.dumps({name: value for name, value in result.items() if name != "runs"}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
