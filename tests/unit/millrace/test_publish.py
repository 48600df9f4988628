"""`millrace publish` against the answers of an API."""

from __future__ import annotations

from typing import Any

import pytest

from millrace.__main__ import main
from millrace.service_client import AdminClient, NoAnswer


class FakeAdmin:
    """An API whose two workers serve publication 3 at the third look, unless there is a `failure`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.failure = ""
        self.unconfirmed: list[str] = []
        self.down: dict[str, list[int]] = {}
        self.candidate: dict[str, Any] | None = None
        self.preparing: list[dict[str, Any]] = []
        self.ends: dict[str, Any] = {"dropped": [], "ended": None}
        self.gone: set[str] = set()
        self.silent = 0
        self._looks = 0

    def post(self, path: str, body: Any) -> dict[str, Any]:
        self.asked.append((path, body))
        if path.endswith("/publish"):
            return {"model": "topics", "number": 3, **self.ends}
        if path.endswith("/candidate"):
            mode = "shadow" if body["shadow"] else "share"
            candidate = {"number": 3, "mode": mode, "share": body["share"], "by": body.get("by", "text")}
            return {"model": "topics", "current": 2, "candidate": candidate, "unconfirmed": self.unconfirmed}
        return {
            "model": "topics",
            "number": body.get("number", 0),
            "before": 2,
            "unconfirmed": self.unconfirmed,
            **self.down,
        }

    def get(self, path: str) -> dict[str, Any]:
        if self.silent:
            self.silent -= 1
            raise NoAnswer("nothing listens")
        self._looks += 1
        revisions = {
            "2": {"workers": 2, "failure": ""},
            "3": {"workers": 2 if self._looks > 2 else self._looks - 1, "failure": self.failure},
        }
        kept = {number: one for number, one in revisions.items() if number not in self.gone}
        topics = {"current": 2, "candidate": self.candidate, "revisions": kept}
        models = {} if "topics" in self.gone else {"topics": topics}
        return {"models": models, "preparing": self.preparing}


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> FakeAdmin:
    fake = FakeAdmin()
    monkeypatch.setattr(AdminClient, "of", lambda args: fake)
    monkeypatch.setattr("millrace.publish.LOOK_S", 0.0)
    return fake


def test_it_moves_once_all_workers_serve_it(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "org/name@0123abc", "--model", "topics"]) == 0
    assert admin.asked == [
        ("/admin/models/publish", {"model": "topics", "reference": "org/name@0123abc"}),
        ("/admin/models/move", {"model": "topics", "number": 3}),
    ]
    said = capsys.readouterr().out
    assert "publication 3 now answers instead of 2" in said
    assert "millrace publish --back --model topics" in said


def test_going_back_is_one_request(admin: FakeAdmin) -> None:
    assert main(["publish", "--back"]) == 0
    assert admin.asked == [("/admin/models/move", {"model": ""})]


def test_what_a_worker_cannot_load_moves_nothing(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.failure = "no such model"
    assert main(["publish", "x"]) == 1
    assert (
        "a worker cannot serve it, so publication 2 answers as before: no such model"
        in capsys.readouterr().err
    )
    assert [path for path, _ in admin.asked] == ["/admin/models/publish"]


def test_too_slow_a_load_moves_nothing(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "x", "--timeout", "0"]) == 1
    assert "0 of 2 workers serve it after 0 s, so publication 2 answers as before" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["3", "2", "topics"])
def test_a_publication_that_another_one_ended_was_a_traceback(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    """Also one that Redis has lost."""
    admin.gone = {gone}
    assert main(["publish", "x"]) == 1
    assert "publication 3 has ended: another one was published" in capsys.readouterr().err


def test_what_a_new_publication_ends_is_named(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.ends = {"dropped": [1, 2], "ended": {"number": 2, "mode": "share", "share": 0.1, "by": "text"}}
    assert main(["publish", "x"]) == 0
    said = capsys.readouterr().out
    assert "publication 1 ends: you can no longer go back to it" in said
    assert "publication 2 ends, and with it its share of the texts" in said


def test_an_api_that_starts_again_meanwhile_is_waited_for(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.silent = 2
    assert main(["publish", "x"]) == 0
    admin.silent = 100
    assert main(["publish", "x", "--timeout", "0"]) == 1
    assert "nothing listens" in capsys.readouterr().err


def test_a_process_that_does_not_confirm_is_named(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    admin.unconfirmed = ["api-1"]
    assert main(["publish", "--back"]) == 1
    assert "not confirmed by api-1" in capsys.readouterr().out


def test_a_shard_that_does_not_have_it_is_named(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    admin.down = {"shards_down": [1, 2]}
    assert main(["publish", "--back"]) == 1
    assert "shard 1, 2 does not have this yet" in capsys.readouterr().out


def test_a_share_begins_once_all_workers_serve_it(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "x", "--share", "0.05", "--by", "client", "--model", "topics"]) == 0
    body = {"model": "topics", "share": 0.05, "by": "client", "shadow": False, "number": 3}
    assert [path for path, _ in admin.asked] == ["/admin/models/publish", "/admin/models/candidate"]
    assert admin.asked[1][1] == body
    said = capsys.readouterr().out
    assert "publication 3 answers 0.05 of the clients, publication 2 the others" in said
    assert "millrace publish --all --model topics" in said
    assert "millrace publish --back --model topics" in said


def test_a_share_is_changed_and_a_shadow_is_compared(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "--shadow", "0.1"]) == 0
    body = {"model": "", "share": 0.1, "shadow": True}  # what it is of does not change
    assert admin.asked == [("/admin/models/candidate", body)]
    said = capsys.readouterr().out
    assert "publication 3 computes 0.1 of the texts without answering them; publication 2 answers all" in said
    assert "millrace compare" in said
    assert main(["publish", "--shadow", "1"]) == 0
    assert "computes all texts without answering" in capsys.readouterr().out


def test_the_revision_with_a_share_answers_all(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "--all"]) == 2
    assert "no publication has a share" in capsys.readouterr().err
    assert admin.asked == []
    admin.candidate = {"number": 3, "mode": "share", "share": 0.1, "by": "text"}
    assert main(["publish", "--all"]) == 0
    assert admin.asked == [("/admin/models/move", {"model": "", "number": 3})]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "say which model"),
        (["x", "--back"], "--back takes no model"),
        (["x", "--all"], "--all takes no model"),
        (["--share", "1.5"], "must be above 0 and at most 1"),
        (["--share", "0.1", "--shadow", "0.1"], "not allowed with"),
        (["x", "--by", "client"], "use it with --share or --shadow"),
        (["--back", "--by", "client"], "use it with --share or --shadow"),
        (["--all", "--by", "text"], "use it with --share or --shadow"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    admin: FakeAdmin, capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    try:
        status = main(["publish", *words])
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    assert (status, admin.asked) == (2, [])
    assert reason in capsys.readouterr().err


def test_while_it_waits_it_says_for_what(admin: FakeAdmin, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"worker": "host-1", "reference": "org/name@0123abc", "seconds": 12.3, "phase": "proving"}
    other = {**one, "worker": "host-2", "reference": "default"}
    admin.preparing = [one, other]
    assert main(["publish", "org/name@0123abc"]) == 0
    said = capsys.readouterr().out
    line = "host-1: preparing org/name@0123abc for 12 s: proving\n"
    assert said.count(line) == 1, "a phase is not repeated"
    assert "host-2" not in said, "another model"
    assert "waiting for 0 s: 1 of 2 workers serve it\n" in said
