"""The model card of a run: README.md of the checkpoint. Standard library only."""

from __future__ import annotations

import json
from importlib import resources

from model_store.training.result import Result

_CARD = resources.files("model_store.training") / "card.md"


def card(result: Result) -> str:
    """The card as Markdown."""
    figures, limits = result.figures, result.thresholds
    labels = (
        f"| {_cell(one.label)} | {one.texts} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} | "
        f"{f'{limits[number]:.2f}' if limits else 'the best'} |"
        for number, one in enumerate(figures.classes)
    )
    return _CARD.read_text("utf-8").format(
        name=_cell(result.name),
        count=len(figures.classes),
        several="any number" if limits else "one",
        accuracy=figures.accuracy,
        texts=figures.texts,
        meaning="exactly the right labels" if limits else "the right label",
        low=figures.interval_95[0],
        high=figures.interval_95[1],
        bag_of_words=result.bag_of_words,
        error=figures.calibration_error,
        temperature=result.temperature,
        labels="\n".join(labels),
        rows="\n".join(f"- {part}: {count:,} rows" for part, count in result.rows.items() if count),
        base=_cell(result.base),
        options=json.dumps(result.as_dict()["options"]),
    )


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
