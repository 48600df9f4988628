"""The page and the card of a training run, without training."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("jinja2")
from model_store.figures import Bin, ClassReport, Figures
from model_store.training.recipes import Options
from model_store.training.report import Mistake, Result, card, page
from model_store.training.survey import Survey

SURVEY = Survey("data.csv", 1200, 1000, 1, 2, 0, 3, 4, 5, 6, {"A & B": 700, "c|d": 300}, multi_label=False)


def _result(*, several: bool, history: list[dict[str, float]], mistakes: tuple[Mistake, ...] = ()) -> Result:
    classes = (ClassReport("A & B", 150, 0.9, 0.8, 0.85), ClassReport("c|d", 100, 0.7, 0.6, 0.65))
    bins = (Bin(10, 0.55, 0.5), Bin(200, 0.95, 0.96))
    confusion = () if several else ((120, 30), (0, 100))
    return Result(
        name="name | <i>",
        base="default",
        options=Options("full"),
        survey=SURVEY,
        rows={"train": 1000, "tune": 0, "test": 250},
        temperature=1.25,
        thresholds=(0.4, 0.61) if several else None,
        figures=Figures(250, 0.9123, (0.87, 0.944), 0.901, 0.0321, classes, bins, confusion),
        bag_of_words=0.8123,
        learning_curve=[(125, 0.5), (1000, 0.9)],
        history=history,
        mistakes=mistakes,
        seconds=120.0,
        processor_seconds=90.0,
    )


def test_a_page_shows_every_part_and_escapes_what_the_file_says() -> None:
    history = [{"epoch": 1, "train_loss": 1.1, "held_out_loss": 0.9}, {"epoch": 2, "train_loss": 0.5}]
    mistake = Mistake("<script>", ("A & B",), (), 0.99)
    html = page(_result(several=False, history=history, mistakes=(mistake,)), "millrace up --model 'x'")
    titles = ["By label", "Confusion", "Calibration", "Learning curve", "Loss", "Most confident mistakes"]
    assert re.findall("<h2>(.*?)</h2>", html) == [*titles, "The data", "Serve it"]
    assert "<td>A &amp; B</td><td>150</td><td>0.900</td>" in html
    assert '<td style="background: rgba(var(--wrong), 0.16)">30</td>' in html
    assert "<td>0.99</td><td>A &amp; B</td>\n<td>none</td><td>&lt;script&gt;</td>" in html
    assert html.count("<svg") == 3
    assert "<script" not in html
    assert "<i>" not in html


def test_without_them_a_page_has_neither_losses_nor_confusions_nor_mistakes() -> None:
    html = page(_result(several=True, history=[]), "millrace up")
    assert html.count("<svg") == 2
    assert "There are none." in html
    assert "<h2>Confusion" not in html
    assert "<td>0.61</td></tr>" in html


def test_a_card_is_markdown_with_a_row_for_each_label() -> None:
    lines = card(_result(several=True, history=[])).splitlines()
    assert r"# name \| <i>" in lines
    assert r"| c\|d | 100 | 0.700 | 0.600 | 0.650 | 0.61 |" in lines
    assert "- train: 1,000 rows" in lines
    assert "- tune: 0 rows" not in lines
