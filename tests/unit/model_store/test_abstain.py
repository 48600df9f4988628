"""With a threshold, a model of two labels may answer UNCERTAIN; without one, nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from batcher.settings import WorkerSettings
from model_store import ModelError, load
from model_store.abstain import Abstaining
from model_store.stub import StubClassifier

TEXTS = [f"text {number}" for number in range(200)]


def test_uncertain_is_the_answer_exactly_if_neither_score_reaches_the_threshold() -> None:
    plain, unsure = load("stub"), load("stub", abstain=0.7)
    before = plain.classify(plain.tokenize(TEXTS))
    after = unsure.classify(unsure.tokenize(TEXTS))
    answers = [unsure.info.labels[row.index(max(row))] for row in after]
    expected = ["UNCERTAIN" if max(row) < 0.7 else plain.info.labels[row.index(max(row))] for row in before]
    assert answers == expected
    assert 50 < answers.count("UNCERTAIN") < 110
    for two, three in zip(before, after, strict=True):
        assert sum(three) == pytest.approx(1)
        assert three[0] * two[1] == pytest.approx(three[1] * two[0])


def test_other_answers_have_another_revision_and_identity() -> None:
    """With one identity, a restarted worker did not take over, and the former setting's cache answered."""
    infos = [load("stub", abstain=threshold).info for threshold in (0.0, 0.6, 0.7)]
    assert len({info.revision for info in infos}) == 3
    assert len({info.identity for info in infos}) == 3


def test_thresholds_that_differ_late_have_different_revisions() -> None:
    """Six digits were compared, so that both shared cached answers, with weights of 3,162 and 10,000."""
    assert len({load("stub", abstain=one).info.revision for one in (0.9999999, 0.99999999)}) == 2


def test_a_model_with_that_label_cannot_abstain() -> None:
    stub = StubClassifier()
    stub.info = replace(stub.info, labels=("CERTAIN", "UNCERTAIN"))
    with pytest.raises(ModelError, match="it has a label UNCERTAIN already; rename that"):
        Abstaining(stub, 0.7)


def test_a_model_of_three_labels_cannot_abstain() -> None:
    stub = StubClassifier()
    stub.info = replace(stub.info, labels=("A", "B", "C"))
    with pytest.raises(ModelError, match="stub cannot abstain"):
        Abstaining(stub, 0.7)


@pytest.mark.parametrize("value", [-0.1, 0.3, 0.5, 1.0])
def test_a_threshold_that_means_nothing_is_refused(value: float) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(abstain=value)


def test_the_model_below_is_closed() -> None:
    closed: list[bool] = []
    stub = StubClassifier()
    stub.close = lambda: closed.append(True)  # type: ignore[method-assign]
    Abstaining(stub, 0.7).close()
    assert closed == [True]
