"""What `millrace up` prints while a worker loads its model, against the answers of an API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from api.settings import ApiSettings
from batcher.settings import WorkerSettings
from millrace.local.operator_key import OperatorKey
from millrace.local.stack import LocalStack
from millrace.preparing import Changes

ONE = {"worker": "host-1", "reference": "default", "seconds": 4.2, "phase": "proving all 75 probes"}


@contextmanager
def an_api(answers: list[list[dict[str, Any]]], key: str) -> Iterator[int]:
    """Is ready once it has given all answers to an operator. Yields its port."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body: dict[str, Any] = {"code": "no_worker"}
            if self.path == "/admin/models":
                assert self.headers["authorization"] == f"Bearer {key}"
                body = {"models": {}, "preparing": answers.pop(0)}
            self.send_response(503 if answers and self.path == "/readyz" else 200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


def test_up_prints_each_phase_of_preparing_a_model_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("millrace.local.stack._QUIET_S", -1.0)
    monkeypatch.setattr("millrace.local.stack._ASK_S", -1.0)
    loading = {**ONE, "seconds": 1.0, "phase": "loading default in torch"}
    key = OperatorKey(None, "http://127.0.0.1:1")
    with an_api([[], [loading], [ONE], [ONE]], key.key) as port:
        api = ApiSettings(host="127.0.0.1", port=port)
        stack = LocalStack(api, WorkerSettings(), 1, [], key)
        asyncio.run(asyncio.wait_for(stack._ready(), 30))
    key.close()
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("host-1")] == [
        "host-1: preparing default for 1 s: loading default in torch",
        "host-1: preparing default for 4 s: proving all 75 probes",
    ]


def test_a_long_phase_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = Changes()
    assert len(list(changes.preparing([ONE]))) == 1
    assert list(changes.preparing([ONE])) == []
    monkeypatch.setattr("millrace.preparing.REPEAT_S", -1.0)
    assert list(changes.preparing([{**ONE, "seconds": 14.9}])) == [
        "host-1: preparing default for 15 s: proving all 75 probes"
    ]
