"""The commands of operators against a real service: what one shows or removes is what was asked."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from batcher.messages import entry_id
from tests.servers import RedisServer
from tests.service import Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]
FOR_OPERATORS = ("publish", "compare", "forget", "trace", "top", "console")
TEXTS = [f"text {number}" for number in range(30)]


def command(service: Service, *words: str) -> str:
    """What a command prints."""
    key = ["--admin-key-file", str(service.key_file)] if words[0] in FOR_OPERATORS else []
    done = subprocess.run(
        millrace(*words, "--url", service.base_url, *key), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_request_is_seen_followed_and_forgotten(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    made = start_service()
    answer = made.predict(*TEXTS)
    assert (answer.status_code, answer.headers["x-cache"]) == (200, "MISS")
    (worker,) = made.live_workers()

    said = command(made, "status")
    assert said.startswith(f"ready        {made.base_url}\nmodel        stub ")
    assert "\nworkers      1\n" in said
    assert "ready   stub " in command(made, "top", "--frames", "1")

    steps = command(made, "trace", answer.headers["x-request-id"]).splitlines()
    assert steps[0].startswith(f"request {answer.headers['x-request-id']}  ")
    assert "(30 texts, " in steps[0]
    kinds = [line.split()[2] for line in steps[1:]]
    assert {"cache", "queued", "claimed", "batch", "answered"} <= set(kinds)
    assert steps[-1].endswith("answered  200")
    assert worker[b"engine"] == b"stub"

    (tmp_path / "text").write_text(f"{TEXTS[0]}\n")
    assert "keys removed or changed" in command(made, "forget", "text", str(tmp_path / "text"))
    assert made.predict(TEXTS[1]).headers["x-cache"] == "HIT"
    assert made.predict(TEXTS[0]).headers["x-cache"] == "MISS"


def test_the_least_certain_texts_of_a_file_are_chosen(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    made = start_service()
    made.start_jobs()
    source, out = tmp_path / "texts.txt", tmp_path / "to-label.csv"
    source.write_text("".join(f"{text}\n" for text in TEXTS))
    assert "5 texts; fill in the column label" in command(
        made, "sample", str(source), "-n", "5", "-o", str(out)
    )
    with out.open(newline="") as file:
        chosen = list(csv.DictReader(file))
    scores = made.predict(*TEXTS).json()["predictions"]
    certain = {text: max(pair["score"] for pair in pairs) for text, pairs in zip(TEXTS, scores, strict=True)}
    assert [row["text"] for row in chosen] == sorted(TEXTS, key=certain.__getitem__)[:5]


def test_a_text_and_a_revision_are_forgotten_where_the_cache_has_its_own_redis(
    start_service: Callable[..., Service], redis_servers: Callable[..., RedisServer], tmp_path: Path
) -> None:
    cache = redis_servers()
    made = start_service(cache_url=cache.url, model="stub,topics=stub@a")
    paths = ("/predict", "/models/topics/predict")

    def ask(text: str) -> list[str]:
        answers = [made.http.post(path, json={"text": [text]}) for path in paths]
        return [answer.headers["x-cache"] for answer in answers]

    def about(text: str) -> list[bytes]:
        return [key for client in clients for key in client.scan_iter(f"*{entry_id(text)}*")]

    with made.redis.client() as queue, cache.client() as apart:
        clients = (queue, apart)

        def cached() -> list[bytes]:
            return [key for key in apart.scan_iter() if not key.endswith(b":epoch")]

        def asked_and_cached(text: str) -> str:
            ask(text)
            time.sleep(0.2)
            return text if len([key for key in cached() if entry_id(text).encode() in key]) == 2 else ""

        assert ask("first") == ask("second") == ["MISS"] * 2
        wait_until(lambda: len(cached()) == 4, "the cache to be written")
        (tmp_path / "text").write_text("first")
        assert "keys removed or changed" in command(made, "forget", "text", str(tmp_path / "text"))
        assert about("first") == []
        assert len(about("second")) >= 2
        assert (ask("second"), ask("first")) == (["HIT"] * 2, ["MISS"] * 2)
        # A worker caches what it claims once it knows that something was forgotten.
        later = (f"later {number}" for number in range(10**6))
        text = wait_until(lambda: asked_and_cached(next(later)), "a cached text")
        before = len(cached())
        revision = made.http.get("/stats").json()["model"]["revision"]
        command(made, "forget", "revision", revision[:12])
        assert not [key for key in cached() if revision.encode() in key]
        assert 2 <= len(cached()) < before, "what another model answered stays"
        assert (ask(text), ask("second")) == (["MISS", "HIT"],) * 2
