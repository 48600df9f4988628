"""The checker of answers sees each kind of wrong answer, and nothing wrong in right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from model_store import load
from tests.signing import Checker, Revision, Row, Said

# The second has the labels of the first in another order, and the third has others.
OLD, REORDERED, OTHER = (Revision(f"stub@signed-{name}") for name in (23, 39, 10))
TOPICS = Revision("stub@signed-2", model="topics")
TEXTS = ("I love you.", "I hate you.")


def row(revision: Revision, text: str) -> Row:
    return Row([*revision.scores(text).values()], revision.labels)


def answer(revision: Revision = OLD, texts: Sequence[str] = TEXTS) -> Said:
    return Said(texts, [row(revision, text) for text in texts], [revision.name])


@pytest.fixture
def checker() -> Checker:
    return Checker([OLD, REORDERED, OTHER, TOPICS])


def test_revisions_differ_in_order_in_labels_and_in_every_score() -> None:
    assert OLD.labels != REORDERED.labels
    assert set(OLD.labels) == set(REORDERED.labels) != set(OTHER.labels)
    for text in (*TEXTS, ""):
        assert sum(OLD.scores(text).values()) == pytest.approx(1)
        assert min(OLD.scores(text).values()) >= 0
        assert all(OLD.scores(text)[label] != REORDERED.scores(text)[label] for label in OLD.labels)
    for first, second in zip(OLD.scores(TEXTS[0]).values(), OLD.scores(TEXTS[1]).values(), strict=True):
        assert first != second


def test_plain_variants_do_not_sign() -> None:
    stub = load("stub@v1")
    assert stub.info.labels == ("NEGATIVE", "POSITIVE")
    assert stub.classify(stub.tokenize(TEXTS)) == load("stub").classify(stub.tokenize(TEXTS))


@pytest.mark.parametrize("revision", [OLD, REORDERED, OTHER])
def test_right_answers_of_every_form_are_right(checker: Checker, revision: Revision) -> None:
    scores = [revision.scores(text) for text in TEXTS]
    best = [max(one, key=lambda label: one[label]) for one in scores]
    falling = [sorted(one.items(), key=lambda pair: -pair[1]) for one in scores]
    forms = {
        "named": [Row([*one.values()], [*one]) for one in scores],
        "by position": [Row([*one.values()], best=top) for one, top in zip(scores, best, strict=True)],
        "best first": [Row([s for _, s in one], [label for label, _ in one], "score") for one in falling],
        "some": [
            Row([one[revision.labels[1]], 0.0], [revision.labels[1], "sexual/minors"], "none")
            for one in scores
        ],
        "32 bits": [Row([value + 3e-8 for value in one.values()], [*one]) for one in scores],
    }
    for name, rows in forms.items():
        assert checker.wrong(Said(TEXTS, rows, [revision.name])) == [], name


def planted() -> dict[str, Said]:
    """Wrong answers by what the checker must say of them, and what is wrong."""
    right, first = answer(), row(OLD, TEXTS[0])
    rows, second = right.rows, row(OLD, TEXTS[1])
    moved = Row([*first.scores[1:], first.scores[0]], first.labels)
    return {
        "count: an answer is missing": replace(right, rows=rows[:1]),
        "count: an answer too many": replace(right, rows=[*rows, first]),
        "text: two answers in each other's place": replace(right, rows=rows[::-1]),
        "text: the answer of another client's text": replace(right, rows=[row(OLD, "a secret"), second]),
        "scores: of no revision": replace(right, rows=[Row([0.2] * 5, OLD.labels), second]),
        "scores: not computed": replace(right, rows=[Row([0.0] * 5, OLD.labels), second]),
        "labels: scores moved by one label": replace(right, rows=[moved, second]),
        "labels: the table of another revision": replace(
            right, rows=[Row(first.scores, REORDERED.labels), second]
        ),
        "order: by label id of another revision": replace(
            right,
            rows=[Row([OLD.scores(TEXTS[0])[one] for one in REORDERED.labels], REORDERED.labels), second],
        ),
        "order: not the best first": replace(
            right,
            rows=[
                Row(sorted(first.scores), sorted(OLD.labels, key=OLD.scores(TEXTS[0]).get), "score"),
                second,
            ],  # type: ignore[arg-type]
        ),
        "best: a label that is not the best": replace(
            right,
            rows=[replace(first, best=min(OLD.labels, key=lambda one: OLD.scores(TEXTS[0])[one])), second],
        ),
        "scores: a category of another table, all zero": replace(
            right, rows=[Row([0.0, 0.0], ["illicit", "violence"], "none"), second]
        ),
        "mixed: two revisions": replace(right, rows=[first, row(OTHER, TEXTS[1])]),
        "mixed: two orders by position": replace(
            right, rows=[replace(one, labels=None) for one in (first, row(REORDERED, TEXTS[1]))]
        ),
        "name: the revision that was published": replace(right, names=[OTHER.name]),
        "model: another one than was asked for": replace(answer(TOPICS), names=[]),
        "stale: older than the move": replace(right, asked_at=7.0),
        "separation: the result of another client": replace(right, client="b", hit=True),
    }


@pytest.mark.parametrize("what", planted())
def test_a_planted_wrong_answer_is_seen(what: str) -> None:
    checker = Checker([OLD, REORDERED, OTHER, TOPICS], separate=True)
    checker.asks(["a secret"])
    if what.startswith("stale"):
        checker.settled(OLD.reference, at=5.0)
    assert what.partition(":")[0] in checker.wrong(planted()[what])


def test_what_was_asked_before_a_move_may_be_of_either_revision(checker: Checker) -> None:
    checker.settled(OLD.reference, at=5.0)
    assert checker.wrong(replace(answer(OLD), asked_at=4.9)) == []
    assert checker.wrong(replace(answer(OTHER), asked_at=4.9)) == []
    assert checker.wrong(replace(answer(OTHER), asked_at=5.0)) == []


def test_a_client_may_get_its_own_results_again() -> None:
    checker = Checker([OLD], separate=True)
    assert checker.wrong(replace(answer(), client="b")) == []
    assert checker.wrong(replace(answer(), client="b", hit=True)) == []
    assert checker.wrong(replace(answer(), client="c", hit=True)) == ["separation"]
