"""Programs that moderate, unmodified: they ask for OpenAI's own model, and send no text to OpenAI."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.compat.service import Service

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".clients/openai/bin/python"
PROGRAM = ROOT / "tests/compat/openai_programs.py"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs LiteLLM: `make other-clients`")


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The URL of a server in the place of OpenAI, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_error(500)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["litellm", "guardrails", "langchain", "langchain_classic"])
def test_a_program_is_answered_and_sends_no_text_to_openai(
    service: Service, elsewhere: tuple[str, list[str]], name: str
) -> None:
    openai, asked = elsewhere
    environment = {
        "OPENAI_BASE_URL": openai,
        "OPENAI_API_KEY": "secret",
        "NO_PROXY": "*",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    done = subprocess.run(
        [PYTHON, PROGRAM, service.url, name],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    score = service.scores("one text")[0]["NEGATIVE"]
    wanted = score if name == "litellm" else score >= 0.5
    assert json.loads(done.stdout.splitlines()[-1]) == wanted
    assert asked == []
