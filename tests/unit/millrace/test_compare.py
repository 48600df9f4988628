"""`millrace compare` against the answer of an API."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.__main__ import main
from millrace.compare import lines
from millrace.service_client import AdminClient

FOUND: dict[str, Any] = {
    "model": "topics",
    "current": 2,
    "candidate": {"number": 3, "mode": "shadow", "share": 0.1, "by": "text"},
    "texts": 1000,
    "agree": 975,
    "agreement": 0.975,
    "mean_difference": 0.012345,
    "labels": {"sport": {"sport": 600, "money": 20}, "money": {"money": 375, "sport": 5}},
    "batch_ms": {"current": 4.0, "candidate": 9.5},
    "text_ms": {"current": 1.0, "candidate": 1.25},
    "failed": 1,
    "dropped": 2,
    "revisions": {"1234567890ab": 1000},
}


def test_it_is_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    class FakeAdmin:
        def get(self, path: str, **query: object) -> dict[str, Any]:
            asked.append((path, query))
            return FOUND

    monkeypatch.setattr(AdminClient, "of", lambda args: FakeAdmin())
    assert main(["compare", "--model", "topics"]) == 0
    assert asked == [("/admin/models/comparison", {"model": "topics"})]
    assert capsys.readouterr().out.splitlines() == [
        "topics: publication 2 answers, publication 3 is compared with it",
        "1000 texts compared, 1 failed, 2 dropped",
        "same label            97.50% (25 changed)",
        "difference of scores  0.01235 on average",
        "model ms, batch       4.000, candidate 9.500",
        "model ms, text        1.000, candidate 1.250",
        "",
        "answer   money   sport",
        "money      375       5",
        "sport       20     600",
    ]


def test_several_revisions_that_answered_are_named() -> None:
    said = list(lines({**FOUND, "revisions": {"1234567890ab": 600, "fedcba098765": 400}}))
    several = "publication 2 was of several revisions, whose texts are added up: "
    assert said[2] == several + "1234567890ab (600 texts), fedcba098765 (400 texts)"


def test_many_labels_are_a_list_of_changes() -> None:
    labels = {f"l{number:02}": {f"l{number:02}": 5, "l00": number} for number in range(1, 20)}
    said = list(lines({**FOUND, "labels": labels}))
    assert said[7] == "      19  l19 -> l00"
    assert len(said) == 7 + 19


def test_before_the_first_text_there_is_no_table() -> None:
    assert len(list(lines({**FOUND, "texts": 0, "agreement": None, "mean_difference": None}))) == 2
