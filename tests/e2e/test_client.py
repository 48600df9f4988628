"""The Python client against a service of real processes; its job also notifies a webhook."""

from __future__ import annotations

import base64
import gc
import json
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from millrace_client import Client, Options, Progress, Unavailable

from batcher.webhook_security import signed_headers
from tests.service import Service, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

WORDS = [f"text {number}" for number in range(300)]
KEY = b"k" * 32
PAGE = Path(__file__).parents[2] / "docs/python-client.md"


class Receiver(BaseHTTPRequestHandler):
    """Accepts every message."""

    def do_POST(self) -> None:
        messages: list[Any] = self.server.messages  # type: ignore[attr-defined]
        messages.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Any]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    made.messages = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_requests_and_a_job_give_the_same_results(
    start_service: Callable[..., Service], receiver: Any
) -> None:
    running = start_service(
        webhook_secrets=f"whsec_{base64.b64encode(KEY).decode()}", webhook_networks="127.0.0.0/8"
    )
    jobs = running.start_jobs()
    with Client(running.base_url) as client:
        found = list(client.classify(WORDS))
        assert [set(one.scores) for one in found] == [{"NEGATIVE", "POSITIVE"}] * 300
        url = f"http://127.0.0.1:{receiver.server_port}/hook"
        job = client.jobs.create(WORDS[:10], webhook_url=url)
    seen: list[Progress] = []
    with Client(running.base_url, options=Options(job_from=300)) as client:
        assert list(client.classify(WORDS, progress=seen.append)) == found
        assert seen[-1].job is not None
        assert (seen[-1].done, seen[-1].job.status) == (300, "finished")
        wait_until(lambda: receiver.messages, "the webhook")
    ((headers, body),) = receiver.messages
    message = json.loads(body)
    assert (message["type"], message["data"]["id"]) == ("job.finished", job.id)
    expected = signed_headers([KEY], headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers.items() >= expected.items()
    assert jobs.stop() == 0
    running.api.kill()
    with Client(running.base_url, options=Options(budget_s=0.5)) as client, pytest.raises(Unavailable):
        list(client.classify(["a"]))


def test_the_recipe_with_duckdb_labels_a_parquet_file(
    start_service: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duckdb = pytest.importorskip("duckdb")
    pytest.importorskip("pandas")
    running = start_service()
    monkeypatch.chdir(tmp_path)
    duckdb.sql("COPY (SELECT range AS id, 'text ' || range AS text FROM range(300)) TO 'reviews.parquet'")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (recipe,) = [block for block in blocks if "import duckdb" in block]
    assert len(recipe.splitlines()) == 6
    with warnings.catch_warnings():  # the recipe leaves it to the end of the program to close its client
        warnings.simplefilter("ignore", ResourceWarning)
        exec(recipe.replace("http://localhost:8000", running.base_url), {})
        gc.collect()
    found = duckdb.sql("SELECT id, text, label FROM 'labelled.parquet' ORDER BY id").fetchall()
    with Client(running.base_url) as client:
        wanted = [one.label for one in client.classify(WORDS)]
    assert found == [(number, WORDS[number], wanted[number]) for number in range(300)]
