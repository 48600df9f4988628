"""The keys of `millrace top`, and `millrace forget`, against an API that is a few prepared answers."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from millrace.__main__ import main
from millrace.service_client import AdminClient
from millrace.top import HELP, TopKeys, View, reading
from tests.unit.millrace.test_watching import FRAME


class Api(ThreadingHTTPServer):
    """Answers /admin with `answer`, to requests with `key`, and remembers them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, Any]] = []
        self.status, self.key = 200, ""
        self.answer: Any = {"keys": 3, "removed": {"cached": 2, "jobs": 1, "files": 0, "waiting": 1}}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Api

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(size)) if size else None
        self.server.asked.append((self.command, self.path, body))
        allowed = not self.server.key or self.headers["Authorization"] == f"Bearer {self.server.key}"
        self.send_response(self.server.status if allowed else 401)
        self.end_headers()
        self.wfile.write(json.dumps(self.server.answer).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - named by the base class

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[Api]:
    served = Api()
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def test_a_text_is_forgotten_without_being_an_argument(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("zwei\nZeilen\n")
    assert main(["forget", "text", str(tmp_path / "text"), "--url", api.url]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ä".encode())))
    assert main(["forget", "text", "-", "--url", api.url]) == 0
    (tmp_path / "text").write_bytes("\ufeffdrei\r\n".encode())
    assert main(["forget", "text", str(tmp_path / "text"), "--url", api.url]) == 0
    texts = ("zwei\nZeilen", "ä", "drei")  # without the byte order mark of an editor
    assert [body for _, _, body in api.asked] == [{"text": text} for text in texts]
    said = capsys.readouterr().out
    assert "3 keys removed or changed\n  cached    2\n  jobs      1\nThe text is being classified" in said


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["client", "web"], {"client": "key:web"}),
        (["client", "192.0.2.7"], {"client": "192.0.2.7"}),
        (["client", "2001:db8::1/64"], {"client": "2001:db8::1/64"}),
        (["client", "2026"], {"client": "key:2026"}),
        (["client", "1.2"], {"client": "key:1.2"}),
        (["client", "2001:db8::/64"], {"client": "2001:db8::/64"}),
        (["revision", "7ddddb9c1dd5"], {"revision": "7ddddb9c1dd5"}),
    ],
)
def test_a_client_or_a_revision_is_forgotten(api: Api, words: list[str], body: dict[str, str]) -> None:
    assert main(["forget", *words, "--url", api.url]) == 0
    assert api.asked == [("POST", "/admin/forget", body)]


def test_a_shard_that_has_forgotten_nothing_makes_the_command_fail(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.answer |= {"shards_down": [1, 2]}
    assert main(["forget", "client", "web", "--url", api.url]) == 1
    said = capsys.readouterr()
    assert "3 keys removed" in said.out
    assert "shard 1, 2 does not answer" in said.err


def test_what_went_wrong_is_one_sentence(
    api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.key = "open sesame"
    command = ["forget", "client", "web", "--url", api.url]
    assert main(command) == 2
    assert "use --admin-key-file." in capsys.readouterr().err
    (tmp_path / "key").write_text("open sesame\n")
    assert main([*command, "--admin-key-file", str(tmp_path / "key")]) == 0
    api.key, api.status, api.answer = "", 422, {"detail": [{"msg": "should match pattern"}]}
    assert main(command) == 2
    assert "should match pattern." in capsys.readouterr().err
    assert main(["forget", "text", str(tmp_path / "none"), "--url", api.url]) == 2
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert main(["forget", "text", str(tmp_path / "bytes"), "--url", api.url]) == 2
    assert main(["forget", "client", "web", "--url", "http://127.0.0.1:9"]) == 1


def lines(view: View) -> str:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(view.draw())
    return console.export_text()


def test_keys_of_top(api: Api) -> None:
    view = View(api.url)
    keys = TopKeys(view, lambda: AdminClient(api.url))
    view.take("frame", FRAME)
    for key in "?":
        keys.press(key)
    assert HELP.split("    ")[1] in lines(view)
    for key in "/nothin\x7fx\r":
        keys.press(key)
    assert view.word == "nothix"
    assert "service-1" not in lines(view)
    for key in "/q\x1b":
        keys.press(key)
    assert not keys.ended, "it was a letter of the word"
    assert "service-1" in lines(view)
    for key in "pxpy":
        keys.press(key)
    assert api.asked == [("PUT", "/admin/pauses/all", {"waiting": "keep", "for_s": 300})]
    view.take("frame", {**FRAME, "pauses": {"bulk": {"waiting": "keep", "left_s": 60.0}}})
    assert "bulk paused for 60 s" in lines(view)
    keys.press("p")
    assert api.asked[1:] == [("DELETE", "/admin/pauses/all", None)]
    api.status, api.answer = 403, {"detail": "this key may only read"}
    keys.press("p")
    assert "this key may only read." in lines(view)
    keys.press("q")
    assert keys.ended


def test_keys_are_read_from_a_terminal_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    pressed: list[str] = []
    all_there = threading.Event()

    def press(key: str) -> None:
        pressed.append(key)
        if len(pressed) == 2:
            all_there.set()

    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        with reading(press):
            os.write(ours, b"/q")
            assert all_there.wait(20)
    os.close(ours)
    assert pressed == ["/", "q"]


def test_a_timeline_is_printed(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    batch = {"step": "batch", "at_ms": 3.1, "texts": 2, "size": 8, "model_ms": 20.1, "joined": False}
    known = {"worker": "w1", "batch": 17, "tokens": 310, "computed_tokens": 384, "reason": "window"}
    api.answer = {
        "request_id": "some",
        "client": "key:web",
        "received_at": "2026-11-23T00:18:06.031+00:00",
        "texts": 3,
        "tokens": 41,
        "timeline": [
            {"step": "received", "at_ms": 0.0, "texts": 3},
            {"step": "cache", "at_ms": 0.4, "in_process": 1, "shared": 0},
            {"step": "queued", "at_ms": 0.4, "texts": 1},
            {"step": "claimed", "at_ms": 2.4, "texts": 2, "worker": "w1", "attempts": 2},
            {**batch, **known},
            {**batch, "worker": None, "joined": True},
            {"step": "answered", "at_ms": 24.0, "status": 200, "code": ""},
        ],
    }
    assert main(["trace", "some", "--url", api.url]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "request some  key:web  received 2026-11-23T00:18:06.031+00:00  (3 texts, 41 tokens)",
        "     0.0 ms  received  3 texts",
        "     0.4 ms  cache     1 from the process, 0 shared",
        "     0.4 ms  queued    1 text",
        "     2.4 ms  claimed   2 texts by w1, attempt 2",
        "     3.1 ms  batch     17: 2 of 8 texts, 310 tokens, 384 computed, window, 20.1 ms in the model",
        "     3.1 ms  batch     2 of 8 texts, by a worker that does not remember it, 20.1 ms in the model, "
        "queued by another request before",
        "    24.0 ms  answered  200",
    ]
    assert [(method, path) for method, path, _ in api.asked] == [("GET", "/admin/traces/some")]
    assert main(["trace", "some", "--json", "--url", api.url]) == 0
    assert json.loads(capsys.readouterr().out) == api.answer


def test_what_is_no_id_is_not_sent(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("../forget", "..", "."):
        assert main(["trace", other, "--url", api.url]) == 2
    assert "up to 128 letters" in capsys.readouterr().err
    assert api.asked == []
