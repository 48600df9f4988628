"""`millrace top` and `millrace status`, against an API that is a few prepared answers."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from millrace.__main__ import main
from millrace.status import number
from millrace.top import reading, spark

NOW = {
    "answered": 20.0,
    "hits": 5.0,
    "refused": 0.0,
    "worked": 15.5,
    "p50_ms": 4.0,
    "p99_ms": 40.0,
    "waiting": 3,
}
FRAME: dict[str, Any] = {
    "at_ms": 1,
    "ready": True,
    "reason": "",
    "solo": 0,
    "in_flight": 2,
    "rate": 1000.0,
    "now": NOW,
    "model": {"name": "stub", "revision": "a1b2c3d4e5f6", "engine": "stub", "precision": "f32"},
    "lanes": {
        "interactive": {"entries": 3, "cost": 30, "oldest_s": 0.2},
        "bulk": {"entries": 0, "cost": 0, "oldest_s": 0},
    },
    "workers": [
        {
            "id": "service-1-0a0b0c0d",
            "revision": "a1b2c3d4e5f6",
            "engine": "stub",
            "precision": "int8",
            "arithmetic": "f32",
            "fallback": "int8 weights in bf16, packed: a text of 17 tokens alone has another label",
            "state": "busy",
            "rate": 1000.0,
            "batches": 7,
            "texts": 50,
            "age_s": 61,
            "recent": [[7, 8, 140, 152, "full", 3.5, 12.4]],
        }
    ],
    "jobs": [{"id": "f" * 32, "status": "running", "done": 10, "total": 40, "remaining_s": 3.0}],
}
HISTORY = {"worked": [0.0, 10.0], "waiting": [1, 2]}


class Api(ThreadingHTTPServer):
    """Answers /stats with `frame`, as JSON or as a stream of one frame; with `key`, only to who shows it."""

    daemon_threads = True
    frame: Any = FRAME
    key = ""
    status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization", "") == (
            f"Bearer {self.server.key}" if self.server.key else ""
        )
        self.send_response(self.server.status if allowed else 401)
        self.end_headers()
        if "event-stream" in self.headers.get("Accept", ""):
            for name, data in (("history", HISTORY), ("frame", self.server.frame)):
                self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())
        else:
            self.wfile.write(json.dumps(self.server.frame).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def test_status_of_a_healthy_mill_is_0(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--url", api.url]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ready")
    for fact in (
        "stub a1b2c3d4e5f6",
        "3 waiting (30 tokens), the oldest for 0.2 s",
        "15.5 texts/s",
        "p99 40 ms",
        "service-1-0a0b0c0d  busy",
        "stub int8 in f32  50 texts in 7 batches",
        "not the requested setting: int8 weights in bf16, packed: a text of 17 tokens alone has",
        "10 of 40 texts",
    ):
        assert fact in said


def test_status_of_a_mill_that_would_not_answer_is_1_with_the_reason(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.frame = {
        **FRAME,
        "ready": False,
        "reason": "Redis does not answer",
        "model": None,
        "workers": [],
        "jobs": None,
    }
    assert main(["status", "--url", api.url]) == 1
    assert "NOT READY" in (said := capsys.readouterr().out)
    assert "Redis does not answer" in said


@pytest.mark.parametrize("command", [["status"], ["top", "--frames", "1"]])
def test_nobody_there_is_a_sentence_and_1(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--url", "http://127.0.0.1:9"]) == 1
    assert "nothing listens at http://127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "frame"), [(404, {}), (200, "hello")])
def test_another_server_is_told_apart(
    api: Api, status: int, frame: object, capsys: pytest.CaptureFixture[str]
) -> None:
    api.status, api.frame = status, frame
    assert main(["status", "--url", api.url]) == 1
    assert "is this a Millrace API?" in capsys.readouterr().err


def test_a_refusal_of_the_service_is_told(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """`millrace status` asked whether it was a Millrace API when a limit of requests was reached."""
    api.status, api.frame = 429, {"detail": "rate limit exceeded", "code": "rate_limited"}
    assert main(["status", "--url", api.url]) == 1
    assert capsys.readouterr().err == "millrace status: rate limit exceeded.\n"


def test_a_key_is_read_from_its_file(api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.key = "open sesame"
    assert main(["status", "--url", api.url]) == 1
    assert "--api-key-file" in capsys.readouterr().err
    (tmp_path / "key").write_text("open sesame\n")
    assert main(["status", "--url", api.url, "--api-key-file", str(tmp_path / "key")]) == 0
    assert main(["status", "--api-key-file", str(tmp_path / "none")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "key").read_bytes())
    assert main(["status", "--url", api.url, "--api-key-file", str(tmp_path / "key")]) == 0


@pytest.mark.parametrize("content", [b"\xff\xfe", "schlüssel".encode(), b"two\nlines", b"nul\0"])
@pytest.mark.parametrize(
    "command",
    ["status --api-key-file", "publish --back --admin-key-file", "classify FILE --api-key-file"],
)
def test_a_file_that_holds_no_key_was_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, command: str
) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "texts.txt").write_text("a text\n")
    words = command.replace("FILE", str(tmp_path / "texts.txt")).split(" ")
    assert main([*words, str(tmp_path / "key")]) == 2
    assert "does not hold an API key: it must be one line of ASCII characters" in capsys.readouterr().err


def test_top_draws_queue_workers_batches_and_jobs(
    api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["top", "--url", api.url, "--frames", "1"]) == 0
    screen = capsys.readouterr().out
    for fact in (
        "ready",
        "3 interactive, 0 bulk, 2 in flight",
        "15.5 texts/s",
        "25% cache hits",
        "busy",
        "●●●●●●●●",
        "140 (+12 padding)",
        "full",
        "10 of 40",
    ):
        assert fact in screen


def test_sparks_reach_from_nothing_to_the_largest() -> None:
    assert spark([0, 4, 8]) == " ▄█"
    assert spark([]) == ""
    assert spark([0, 0]) == "  "


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0, "0"), (0.01234, "0.0123"), (99.55, "99.5"), (123456.7, "123,457")]
)
def test_numbers_are_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_top_reads_no_keys_from_a_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with reading(pytest.fail):
        pass
