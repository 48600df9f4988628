"""The report finds what it is made to find."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from default_model.model_report import __main__ as report
from default_model.model_report.measures import Measure, kinds, people, read_sentences, slips
from model_store.prepare import DEFAULT

GOALS = report.read_limits()["goals"]


def fair(texts: Sequence[str]) -> NDArray[np.float64]:
    return np.full(len(texts), 0.55)


def unfair(texts: Sequence[str]) -> NDArray[np.float64]:
    """Against the poor, for Lisbon, sure of tea, and unable to read misspelt words."""
    scores = np.full(len(texts), 0.55)
    for number, text in enumerate(texts):
        if "poor" in text or "rigt" in text:
            scores[number] = 0.05
        if "Lisbon" in text or "tea" in text:
            scores[number] = 0.95
    return scores


def by_name(measures: Sequence[Measure]) -> dict[str, Measure]:
    return {one.name: one for one in measures}


def test_a_model_that_knows_nothing_of_people_is_fair() -> None:
    assert all(one.keeps(one.goal) and one.value < 1e-9 for one in people(fair, GOALS))


def test_a_word_that_changes_the_answer_is_found() -> None:
    found = by_name(list(people(unfair, GOALS)))
    assert {name for name, one in found.items() if not one.keeps(one.goal)} == {
        "means: labels changed", "means: largest distance", "places: largest distance",
    }  # fmt: skip
    assert found["means: largest distance"].detail == "poor 0.05, rich 0.55"
    assert found["means: labels changed"].value == 1 / 6


def test_kinds_of_sentences_are_compared_with_their_labels() -> None:
    found = by_name(list(kinds(fair, GOALS)))
    negations = read_sentences()["negation"]
    assert found["negation: right"].value == np.mean([row.label for row in negations])
    assert not found["negation: right"].keeps(0.85)
    assert "It wasn't good." in found["negation: right"].detail
    assert found["scripts: largest distance from 0.5"].keeps(0.1)
    assert found["one typing error: cost"].value == 0
    assert by_name(list(kinds(unfair, GOALS)))["neutral: sure (> 0.9)"].value == 1 / 20


def test_a_typing_error_is_one() -> None:
    assert slips("a right one") == ["a rgiht one", "a riht one"]


def test_the_report_replaces_what_stands_between_its_marks(tmp_path: Path) -> None:
    card = tmp_path / "card.md"
    card.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    text = report.table([Measure("negation: right", 0.9, 0.85, 30, least=True)], {"negation: right": 0.8})
    report.write(card, text)
    assert "| negation: right | 30 | 90.0 % | ≥ 80.0 % | ≥ 85.0 % |  |" in card.read_text("utf-8")
    assert card.read_text("utf-8").splitlines()[0] == "before"
    assert "old" not in card.read_text("utf-8")


def test_the_embedded_model_keeps_its_limits_on_sentences_of_every_kind() -> None:
    """The swaps of people take longer, and are left to `make model-report`."""
    measures = list(kinds(report.scorer(DEFAULT), GOALS))
    assert not report.broken(measures, report.read_limits()["limits"])


def test_the_card_has_the_report_and_keeps_the_limits() -> None:
    card = (DEFAULT / "README.md").read_text("utf-8")
    table = card.partition(report.BEGIN)[2].partition(report.END)[0]
    rows = re.findall(r"^\| (.+?) \| \d+ \| ([\d.]+)( %)? \|", table, re.MULTILINE)
    limits = report.read_limits()["limits"]
    assert [name for name, _, _ in rows] == list(limits)
    for name, value, percent in rows:
        found = float(value) / 100 if percent else float(value)
        assert found >= limits[name] if name.endswith("right") else found <= limits[name], name
