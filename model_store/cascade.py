"""What a cascade of two models would do on labelled texts, by the threshold of the first one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from model_store.errors import ModelError
from model_store.evaluate import Evaluation

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)


@dataclass(frozen=True, slots=True)
class Step:
    """A cascade with one threshold: its accuracy, the share passed on, and the texts/s of both together."""

    threshold: float
    accuracy: float
    passed: float
    texts_per_s: float


def steps(fast: Evaluation, sure: Evaluation) -> Sequence[Step]:
    """One for each threshold at which the fast model is not sure of some texts."""
    found = []
    for threshold in THRESHOLDS:
        passed = fast.best < threshold
        if passed.any():
            accuracy = float(np.where(passed, sure.right, fast.right).mean())
            share = float(passed.mean())
            seconds = 1 / fast.texts_per_s + share / sure.texts_per_s
            found.append(Step(threshold, accuracy, share, 1 / seconds))
    return found


def recommended(found: Sequence[Step], least: float) -> Step | None:
    """The smallest threshold from which on the accuracy is at least this; None if there is none."""
    best = None
    for step in reversed(found):
        if step.accuracy < least:
            break
        best = step
    return best


def report(fast: Evaluation, sure: Evaluation, within: float) -> Iterator[str]:
    """The figures as lines of text. Raises ModelError if the models cannot be members of a cascade."""
    labels, others = fast.info.labels, sure.info.labels
    if set(labels) != set(others):
        raise ModelError(
            f"The members of a cascade must have the same labels; {fast.info.name} has {', '.join(labels)}, "
            f"{sure.info.name} {', '.join(others)}."
        )
    if fast.info.multi_label or sure.info.multi_label:
        raise ModelError("The members of a cascade must give each text one label.")
    low, high = sure.figures.interval_95
    yield f"passed on to {sure.info.name}, of {sure.texts_per_s:.0f} texts/s"
    yield "threshold  accuracy  passed on  texts/s"
    found = steps(fast, sure)
    for step in found:
        yield f"{step.threshold:<9g}  {step.accuracy:.4f}    {step.passed:7.1%}    {step.texts_per_s:7.0f}"
    yield f"{sure.info.name} alone  {sure.figures.accuracy:.4f} (95 %: {low:.4f} to {high:.4f})"
    yield _advice(fast, sure, recommended(found, sure.figures.accuracy - within), within)


def _advice(fast: Evaluation, sure: Evaluation, step: Step | None, within: float) -> str:
    name, larger = fast.info.name, sure.info.name
    if fast.figures.accuracy >= sure.figures.accuracy - within:
        return f"A cascade does not pay: {name} alone is within {within:g} of the accuracy of {larger}."
    if step is None:
        return f"A cascade does not pay: at no threshold is it within {within:g} of the accuracy of {larger}."
    if step.texts_per_s <= sure.texts_per_s:
        return f"A cascade does not pay: at {step.threshold:g} it is not faster than {larger} alone."
    return (
        f"threshold {step.threshold:g} is the smallest from which on a cascade is within {within:g} of the "
        f"accuracy of {larger}, at {step.texts_per_s / sure.texts_per_s:.1f} times its speed"
    )
