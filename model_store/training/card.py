"""The model card of a run: README.md of the checkpoint. Standard library only."""

from __future__ import annotations

import json

from model_store.training.result import Result

_CARD = """---
library_name: transformers
pipeline_tag: text-classification
---

# {name}

Classifies texts into {count} labels, {several} a text. A plain `DistilBertForSequenceClassification`;
`millrace up --model DIRECTORY` serves it.

## Figures

{accuracy:.1%} of {texts:,} test texts got {meaning} (95 % interval: {low:.1%} to {high:.1%}). A bag of words
gets {bag_of_words:.1%}. Calibration error {error:.3f}; logits are divided by {temperature} before scores are
computed (`millrace.temperature` in config.json).

| label | test texts | precision | recall | F1 | threshold |
|---|---|---|---|---|---|
{labels}

## Data and recipe

{rows}

The base is `{base}`, and the recipe:

    {options}

report.html shows confusions, calibration and the most confident mistakes; metrics.json has all figures.

## Limits

The figures hold for texts like those of the test part. What the labels mean, who wrote the texts and what
they may be used for is not known to the program that wrote this card: add it here.
"""


def card(result: Result) -> str:
    """The card as Markdown."""
    figures, limits = result.figures, result.thresholds
    labels = (
        f"| {_cell(one.label)} | {one.texts} | {one.precision:.3f} | {one.recall:.3f} | {one.f1:.3f} | "
        f"{f'{limits[number]:.2f}' if limits else 'the best'} |"
        for number, one in enumerate(figures.classes)
    )
    return _CARD.format(
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
