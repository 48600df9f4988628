"""The report's natural form, and that it covers dev and every check file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from default_model.convert import convert
from default_model.corpus import read_rows
from tests.lazy import Lazy
from tests.unit.model_store.tiny_bert import write_bert, write_data

report: Any = Lazy("default_model.report")
CHECKS = Path(__file__).parents[3] / "packaging/model/natural"


def test_natural_form() -> None:
    assert report.natural("i ca n't say i did n't like it .") == "I can't say I didn't like it."


def test_report_covers_dev_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(write_bert(tmp_path / "bert"), tmp_path / "model")
    data = write_data(tmp_path / "data")
    assert report.main(["--model", str(tmp_path / "model"), "--data", str(data), "--checks", str(data)]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["dev"]["texts"] == result["dev_natural"]["texts"] == 1
    assert result["train"]["texts"] == 24


def test_the_natural_checks_are_readable_and_balanced() -> None:
    rows = [row for path in CHECKS.glob("*.tsv") for row in read_rows(path)]
    assert len(rows) >= 150
    assert len({row.text for row in rows}) == len(rows)
    assert 0.4 < sum(row.positive for row in rows) / len(rows) < 0.6
