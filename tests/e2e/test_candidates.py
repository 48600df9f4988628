"""A candidate through the commands of operators, with real processes that start again."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence

import pytest

from batcher.core.publications import Candidate
from model_store.stub import StubClassifier
from tests.many import model_header
from tests.service import Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]
TEXTS = [f"text {number}" for number in range(60)]


def command(service: Service, *words: str) -> list[str]:
    """The lines that a command prints."""
    done = subprocess.run(
        millrace(*words, "--url", service.base_url, "--admin-key-file", str(service.key_file)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def model_headers(service: Service, texts: Sequence[str]) -> list[str]:
    """Which revision answers each text, once all of them are answered."""
    found: list[str] = []

    def answered() -> bool:
        answers = [service.predict(text) for text in texts]
        found[:] = [answer.headers.get("x-model", "") for answer in answers]
        return all(answer.status_code == 200 for answer in answers)

    wait_until(answered, "all texts to be answered", 60)
    return found


def test_a_shadow_is_compared_to_the_last_text_and_a_share_outlives_its_processes(
    start_service: Callable[..., Service],
) -> None:
    made = start_service()
    command(made, "publish", "stub@v2", "--shadow", "0.5")
    assert model_headers(made, TEXTS) == [model_header("stub", "")] * len(TEXTS)
    candidate = Candidate(1, 0.5)
    shadowed = [text for text in TEXTS if candidate.takes(text, "")]

    def compared() -> bool:
        found = made.http.get("/admin/models/comparison").json()
        return bool(found["texts"] + found["failed"] + found["dropped"] == len(shadowed))

    wait_until(compared, "the comparison", 60)
    stub = StubClassifier()
    positive = sum(scores[1] > scores[0] for scores in stub.classify(stub.tokenize(shadowed)))
    said = command(made, "compare")
    assert said[1] == f"{len(shadowed)} texts compared, 0 failed, 0 dropped"
    assert said[-2:] == [
        f"NEGATIVE{len(shadowed) - positive:>10}{0:>10}",
        f"POSITIVE{0:>10}{positive:>10}",
    ]
    command(made, "publish", "--share", "0.5")
    wanted = [model_header("stub", "v2" if candidate.takes(text, "") else "") for text in TEXTS]
    assert len(set(wanted)) == 2
    assert model_headers(made, TEXTS) == wanted
    for process in (made.api, made.workers.pop()):
        process.kill(signal.SIGKILL)
    made.start_api()
    made.start_worker()
    made.wait_ready()
    assert model_headers(made, TEXTS) == wanted
    more = [f"more {text}" for text in TEXTS]  # which no cache knows
    assert model_headers(made, more) == [
        model_header("stub", "v2" if candidate.takes(text, "") else "") for text in more
    ]
