"""The bytes that a job holds never exceed what was reserved for it, or what its client may hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

import fakeredis
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from batcher.jobs.records import Counts
from batcher.jobs.results import chunk_results
from batcher.jobs.store import JobStore
from batcher.jobs.upload import UNBOUNDED, Budget, Submission, result_bytes
from batcher.messages import Prediction, fragment, longest_fragment, shortest_fragment
from tests.conftest import encoded
from tests.unit.fakes import MODEL, REVISION

JOB = "a" * 32
SIZES = "{millrace-jobs:unit}:jobs:sizes"
LABELS = st.integers(2, 500).map(lambda count: [f"label {number}" for number in range(count)])
SCORES = st.sampled_from([0.0, 1.0, 1e-7, 0.5, 1 / 3, 0.9999999])


def server() -> redis.Redis:
    return fakeredis.FakeRedis(server=fakeredis.FakeServer(version=(7,)))


def answer(labels: Sequence[str], score: float, revision: str = REVISION) -> Prediction:
    return Prediction(fragment(labels, [score] * len(labels)), revision, 3, 0, 1.0, 0.1, 2.0, 1)


def reserved(client: redis.Redis) -> int:
    """The bytes that are counted for the only job."""
    return sum(int(held.split()[0]) for held in client.hvals(SIZES))


def submit(store: JobStore, texts: Sequence[str], submission: Submission, budget: Budget = UNBOUNDED) -> None:
    upload = store.upload(JOB, 4, submission, budget)
    for at in range(0, len(texts), 4):
        upload.add(encoded(texts[at : at + 4]))
    assert store.create(upload, "digest", 10).outcome == "created"


def run(store: JobStore, texts: int, one: Prediction) -> str:
    """Appends the same result for each text, chunk by chunk, and ends the job."""
    attempt = store.start(JOB)
    for number in range(attempt.chunks):
        chunk = chunk_results([one] * min(4, texts - 4 * number), MODEL)
        lines, models = [chunk.lines], [chunk.models]
        status = store.append(
            attempt, number, lines, counts=Counts(), rate=1.0, model=chunk.model, models=models
        )
        if status != "running":
            return status
    return store.end(attempt, "finished")


def stored(client: redis.Redis) -> int:
    """The bytes of texts and results that Redis has of the job."""
    key = f"{{millrace-jobs:unit}}:job:{JOB}"
    texts = sum(map(len, client.hvals(f"{key}:input")))
    lists = [client.lrange(f"{key}:{name}", 0, -1) for name in ("output", "models")]
    return texts + sum(len(one) for each in lists for one in each)


@settings(max_examples=40, deadline=None)
@given(LABELS, SCORES)
def test_results_are_between_the_shortest_and_the_longest(labels: Sequence[str], score: float) -> None:
    size = len(fragment(labels, [score] * len(labels)))
    assert shortest_fragment(tuple(labels)) <= size <= longest_fragment(labels)


@settings(max_examples=40, deadline=None)
@given(LABELS, SCORES, st.integers(1, 11), st.booleans())
def test_a_job_holds_no_more_than_was_reserved_for_its_results(
    labels: Sequence[str], score: float, count: int, keep_input: bool
) -> None:
    fake = server()
    store, texts = JobStore(fake, "unit", 60), [f"text {number}" for number in range(count)]
    submit(store, texts, Submission(keep_input=keep_input, result_bytes=result_bytes(labels)))
    most = reserved(fake)
    assert run(store, count, answer(labels, score)) == "finished"
    assert stored(fake) == reserved(fake) <= most
    assert (store.input(JOB, 0) is not None) == keep_input


@pytest.mark.parametrize("labels", [2, 28, 151, 500])
@pytest.mark.parametrize(("total", "client"), [(20_000, 10**9), (10**9, 20_000)])
def test_1_mb_of_texts_became_356_mb_of_results(labels: int, total: int, client: int) -> None:
    """100 bytes were reserved for a result whatever the model, and nothing asked for room when it came."""
    fake, names = server(), [f"label {number}" for number in range(labels)]
    store = JobStore(fake, "unit", 60, Budget(total, client))
    texts = [f"text {number}" for number in range(40)]
    submit(store, texts, Submission(), Budget(total, client))  # while no worker says which labels there are
    status = run(store, len(texts), answer(names, 0.5))
    assert stored(fake) == reserved(fake) <= 20_000
    record = store.record(JOB)
    assert record is not None
    assert record.status == status == ("finished" if labels == 2 else "failed")
    if status == "failed":
        assert record.error_code == "results_too_large"
        setting = "MILLRACE_MAX_JOBS_BYTES" if total == 20_000 else "MILLRACE_MAX_CLIENT_JOBS_BYTES"
        assert f"a job may hold 20000 bytes ({setting}): submit fewer texts in a job" in record.error
        assert record.done < 40
        assert len([line for lines in store.output(record, 0, 40) for line in lines]) == record.done


def test_results_that_outgrow_what_others_leave_say_whose_jobs_are_in_the_way() -> None:
    fake, labels = server(), [f"label {number}" for number in range(151)]
    budget = Budget(40_000, 30_000)
    store = JobStore(fake, "unit", 60, budget)
    other = store.upload("b" * 32, 4, Submission(client="other"), budget)
    other.add(encoded(["x" * 25_000]))
    assert store.create(other, "digest", 10).outcome == "created"
    submit(store, ["a"] * 8, Submission(client="one"), budget)
    assert run(store, 8, answer(labels, 0.5)) == "failed"
    record = store.record(JOB)
    assert record is not None
    assert "all jobs together have reached their limit of 40000 bytes" in record.error
    assert "delete jobs that have ended" in record.error


def test_json_of_results_is_what_was_appended() -> None:
    fake = server()
    store = JobStore(fake, "unit", 60)
    submit(store, ["a", "b"], Submission())
    assert run(store, 2, answer(["x", "y"], 0.5)) == "finished"
    record = store.record(JOB)
    assert record is not None
    lines = [json.loads(line) for lines in store.output(record, 0, 2) for line in lines]
    assert lines == [[{"label": "x", "score": 0.5}, {"label": "y", "score": 0.5}]] * 2
