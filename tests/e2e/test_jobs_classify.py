"""`millrace classify` against a service of real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.texts import texts
from model_store.stub import LABELS, StubClassifier
from tests.service import Service, millrace, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

COUNT = 3000


def expected(asked: list[str]) -> list[tuple[str, str]]:
    """Best label and score of each text, as a table holds them."""
    stub = StubClassifier()
    rows = stub.classify(stub.tokenize(asked))
    return [(LABELS[row.index(max(row))], str(max(row))) for row in rows]


def command(service: Service, *words: str) -> list[str]:
    return millrace("classify", "--url", service.base_url, *words)


def run(service: Service, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(service, *words), capture_output=True, text=True, input=text, timeout=100)


def table(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_table_comes_back_with_labels(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service()
    service.start_jobs()
    asked = [text + ('\n"quoted", it\'s said' if at % 7 == 0 else "") for at, text in enumerate(texts(COUNT))]
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    table(source, [["id", "body"], *([str(at), text] for at, text in enumerate(asked))])
    done = run(service, str(source), "--column", "body", "-o", str(out))
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(at) for at in range(COUNT)]
    assert [row["body"] for row in rows] == asked
    assert [(row["label"], row["score"]) for row in rows] == expected(asked)
    assert service.http.get("/jobs").json()["jobs"] == [], "the job was removed"
    assert set(tmp_path.iterdir()) == {source, out}


def test_standard_input_to_standard_output(start_service: Callable[..., Service]) -> None:
    service = start_service()
    service.start_jobs()
    done = run(service, "-", "--format", "ndjson", text='"good"\n{"text": "bad", "id": 2}\n')
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["text"] == "good"
    assert (second["id"], len(second["prediction"])) == (2, 2)


def test_a_text_without_a_prediction_shows_in_the_exit_status(start_service: Callable[..., Service]) -> None:
    service = start_service(max_text_chars=20)
    service.start_jobs()
    done = run(service, "-", "--keep", text=f"good\n{'long ' * 20}\nbad\n")
    assert done.returncode == 1
    assert "1 of 3 texts have an error" in done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["error"] for row in rows] == ["", "text_too_long", ""]
    assert len(service.http.get("/jobs").json()["jobs"]) == 1


def test_an_interrupted_run_is_continued_by_the_same_command(
    start_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = start_service(stub_token_ms=0.2)
    service.start_jobs()
    source, out = tmp_path / "in.txt", tmp_path / "out.ndjson"
    asked = texts(COUNT)
    source.write_text("".join(f"{text}\n" for text in asked))
    words = (str(source), "-o", str(out))
    # A shell that runs the tests in the background lets them ignore the signal, and they this process.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(command(service, *words), stderr=subprocess.PIPE, text=True, preexec_fn=heeds)

    def jobs() -> list[dict[str, object]]:
        found: list[dict[str, object]] = service.http.get("/jobs").json()["jobs"]
        return found

    wait_until(lambda: any(job["done"] for job in jobs()), "progress")
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "the same command resumes" in said
    assert not out.exists()
    (before,) = jobs()
    done = run(service, *words)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert [result["text"] for result in results] == asked
    assert before["total"] == COUNT
    assert jobs() == []
    with service.redis.client() as client:
        ended = client.hgetall("{millrace-jobs:default}:jobs:totals")
    assert ended[b"finished"] == b"1", "both runs were one job"


def test_what_cannot_be_done_is_a_sentence(start_service: Callable[..., Service], tmp_path: Path) -> None:
    service = start_service(workers=0)
    missing = run(service, str(tmp_path / "none.csv"))
    assert missing.returncode == 2
    assert missing.stderr.startswith("millrace classify: file not found")
    (tmp_path / "in.csv").write_text("id,words\n1,a\n")
    column = run(service, str(tmp_path / "in.csv"))
    assert "no column 'text'; the columns are 'id', 'words'" in column.stderr
    assert os.listdir(tmp_path) == ["in.csv"]
