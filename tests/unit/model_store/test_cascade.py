"""What a cascade of two models would do on labelled texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_store.errors import ModelError
from model_store.evaluate import Evaluation, recommended, report_cascade, steps
from model_store.figures import choose, figures, right_texts
from model_store.stub import LABELS, StubClassifier


def evaluation(positive: list[float], labels: list[int], texts_per_s: float, **info: object) -> Evaluation:
    """Of a model with these scores of POSITIVE."""
    scores = np.array([[1 - score, score] for score in positive])
    expected = np.eye(2, dtype=bool)[labels]
    return Evaluation(
        info=replace(StubClassifier().info, **info),
        figures=figures(LABELS, scores, expected),
        truncated=0,
        texts_per_s=texts_per_s,
        right=right_texts(choose(scores, None), expected),
        best=scores.max(axis=1),
    )


TRUTH = [1] * 10
# Right where it is sure, and in one of four cases where it is not.
FAST = evaluation([0.95] * 6 + [0.45] * 3 + [0.55], TRUTH, 300.0, name="small")
# Wrong in one case, where the other one is sure.
SURE = evaluation([0.1] + [0.9] * 9, TRUTH, 100.0, name="large")


def test_each_threshold_has_accuracy_share_and_speed() -> None:
    found = {step.threshold: step for step in steps(FAST, SURE)}
    assert 0.5 not in found, "the fast model is sure of all texts"
    for threshold in (0.6, 0.9, 0.95):
        step = found[threshold]
        assert (step.accuracy, step.passed) == (1.0, pytest.approx(0.4))
        assert step.texts_per_s == pytest.approx(1 / (1 / 300 + 0.4 / 100))
    assert (found[0.97].accuracy, found[0.97].passed) == (0.9, 1.0)


def test_the_smallest_threshold_is_recommended_from_which_on_none_falls_behind() -> None:
    found = steps(FAST, SURE)
    best = recommended(found, 0.9)
    assert best is not None
    assert best.threshold == 0.6
    dip = [replace(step, accuracy=0.5 if step.threshold == 0.8 else step.accuracy) for step in found]
    best = recommended(dip, 0.9)
    assert best is not None
    assert best.threshold == 0.85
    assert recommended(found, 0.95) is None


def test_the_report_ends_with_advice() -> None:
    *lines, advice = report_cascade(FAST, SURE, 0.005)
    assert "0.9        1.0000      40.0%        136" in lines
    assert advice == (
        "threshold 0.6 is the smallest from which on a cascade is within 0.005 of the accuracy of large, "
        "at 1.4 times its speed"
    )
    *_, advice = report_cascade(FAST, SURE, 0.3)
    assert advice == "A cascade does not pay: small alone is within 0.3 of the accuracy of large."
    # With 0.4 of the texts passed on, both together run 120 texts/s, too.
    for alone in (120.0, 121.0):
        sure = replace(SURE, texts_per_s=alone)
        *_, advice = report_cascade(replace(FAST, texts_per_s=200.0), sure, 0.005)
        assert advice == "A cascade does not pay: at 0.6 it is not faster than large alone."


def test_members_that_cannot_replace_each_other_are_refused() -> None:
    foreign = replace(SURE, info=replace(SURE.info, labels=("SPAM", "HAM")))
    with pytest.raises(
        ModelError, match="must have the same labels; small has NEGATIVE, POSITIVE, large SPAM, HAM"
    ):
        list(report_cascade(FAST, foreign, 0.005))
    several = replace(SURE, info=replace(SURE.info, multi_label=True))
    with pytest.raises(ModelError, match="must give each text one label"):
        list(report_cascade(FAST, several, 0.005))
