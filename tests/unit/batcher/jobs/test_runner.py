"""One attempt at a job with a fake hub: order, bounds, patience, and where the next one continues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from batcher.core.commands import NoteRefused
from batcher.errors import (
    EntryFailed,
    EntryPoisoned,
)
from batcher.jobs import runner
from batcher.jobs.records import Attempt
from batcher.jobs.results import chunk_results, decode_models
from batcher.jobs.runner import BUDGET_S, Interrupted, smoothed
from batcher.jobs.store import JobStore
from batcher.jobs.upload import Submission
from batcher.messages import Outcome, entry_id
from tests.conftest import FakeRedis, encoded
from tests.unit.batcher.jobs.one_job import JOB, WORDS, Bench, answers
from tests.unit.fakes import (
    MODEL,
    OTHER_REVISION,
    REVISION,
    FakeHub,
    prediction,
)


@pytest.fixture
def bench(fake_redis: FakeRedis) -> Bench:
    return Bench(JobStore(fake_redis.sync, "unit", 60))


def test_every_text_gets_its_result_in_order(bench: Bench) -> None:
    bench.job(WORDS)
    assert bench.run() == "finished"
    assert bench.results() == answers(WORDS)
    record = bench.record
    assert (record.done, record.failed, record.total, record.attempt) == (50, 0, 50, 1)
    assert record.model == f"stub@{REVISION[:12]}"
    assert record.started_ms is not None
    assert record.finished_ms is not None
    assert record.created_ms <= record.started_ms <= record.finished_ms
    assert not bench.hub.running
    assert bench.hub.in_flight == 0, "stopped under its callers"
    assert bench.cache.closed


@pytest.mark.parametrize(
    ("member", "shown"), [("", OTHER_REVISION), ("stub", OTHER_REVISION), ("fast", REVISION)]
)
def test_a_job_shows_the_model_of_its_newest_result_or_the_cascade_that_was_asked(
    member: str, shown: str
) -> None:
    newest = prediction("b", OTHER_REVISION)._replace(model=member)
    chunk = chunk_results([prediction("a"), newest, None], MODEL)
    assert chunk.model == f"stub@{shown[:12]}"
    models = [f"stub@{REVISION[:12]}", f"{member or 'stub'}@{OTHER_REVISION[:12]}", ""]
    assert decode_models(chunk.models, 3) == models


def test_a_text_is_asked_for_once_a_chunk_however_often_it_stands_there(bench: Bench) -> None:
    bench.job(["same"] * 8)
    bench.run()
    assert bench.asked() == ["same", "same"]
    assert bench.results() == answers(["same"] * 8)


def test_what_the_cache_knows_is_not_asked_for(bench: Bench) -> None:
    for text in WORDS[:49]:
        bench.cache.keep(text)
    bench.job(WORDS)
    bench.run()
    assert [BUDGET_S - 60 < budget_s <= BUDGET_S for budget_s in bench.hub.budgets] == [True]
    assert bench.asked() == WORDS[49:]
    assert bench.results() == answers(WORDS)


def test_no_more_is_in_flight_than_the_setting_says(bench: Bench) -> None:
    bench.hub.pause_s = 0.001
    bench.job(WORDS * 4, chunk_texts=16)
    bench.run(job_in_flight=32)
    assert 16 <= bench.hub.most <= 32


def test_fewer_in_flight_than_a_request_would_hold(bench: Bench) -> None:
    bench.hub.pause_s = 0.001
    bench.job(WORDS, chunk_texts=16)
    bench.run(job_in_flight=5)
    assert bench.hub.most == 5
    assert bench.results() == answers(WORDS)


def test_texts_that_were_cut_are_counted_with_their_tokens(bench: Bench) -> None:
    bench.hub.answer = lambda text: prediction(text, truncated=30 if text in WORDS[:3] else 0)
    bench.cache.keep("known", truncated=10)
    bench.job([*WORDS[:9], "known"])
    assert bench.run() == "finished"
    assert (bench.record.truncated, bench.record.truncated_tokens) == (4, 100)


@pytest.mark.parametrize("refused", [False, True])
def test_texts_that_the_model_does_not_know_are_counted_or_refused(bench: Bench, refused: bool) -> None:
    bench.hub.answer = lambda text: prediction(text, foreign=text in WORDS[:3])
    bench.cache.keep("known", foreign=True)
    bench.job([*WORDS[:9], "known"])
    assert bench.run(refuse_unknown=refused) == "finished"
    assert (bench.record.unknown, bench.record.failed) == ((0, 4) if refused else (4, 0))
    codes = [result["error"]["code"] if "error" in result else "" for result in bench.results()]
    assert codes == (["text_unknown"] * 3 + [""] * 6 + ["text_unknown"] if refused else [""] * 10)


def test_one_bad_text_is_an_entry_with_an_error_in_its_place(bench: Bench) -> None:
    errors: dict[str, Outcome] = {
        "bad": EntryFailed("the model failed on this text"),
        "worse": EntryPoisoned("this text ended 3 workers"),
    }
    bench.hub.answer = lambda text: errors.get(text) or prediction(text)
    bench.job(["a", "bad", None, "worse", "b"])
    assert bench.run() == "finished"
    results = bench.results()
    assert [results[0], results[4]] == answers(["a", "b"])
    codes = [results[at]["error"]["code"] for at in (1, 2, 3)]
    assert codes == ["inference_failed", "text_too_long", "poison"]
    assert (bench.record.failed, bench.record.status) == (3, "finished")


def test_a_job_cancelled_while_it_runs_asks_for_nothing_more(bench: Bench) -> None:
    bench.job(WORDS * 100, chunk_texts=4)
    bench.hub.pause_s, bench.hub.leaves_s = 60.0, 0.01  # far longer than it takes to cancel
    seen, left = 0, list[int]()

    async def stop() -> None:
        left.append(bench.hub.in_flight)

    bench.hub.stop = stop  # type: ignore[method-assign]

    def cancel_soon() -> bool:
        nonlocal seen
        seen += 1
        if seen == 2:
            bench.store.cancel(JOB)
        return False

    assert bench.run(cancel_soon, job_in_flight=8) == "cancelled"
    assert bench.hub.cancelled > 0, "what was in flight was taken back"
    assert left == [0], "before the hub stopped"
    assert bench.record.status == "cancelled"
    assert bench.record.done < bench.record.total


def test_the_next_attempt_continues_where_the_last_was_interrupted(bench: Bench) -> None:
    bench.job(WORDS * 20, chunk_texts=4)
    bench.hub.pause_s = 0.02
    with pytest.raises(Interrupted):
        bench.run(lambda: bench.record.done > 0, job_in_flight=8)
    done = bench.record.done
    assert 0 < done < 1000
    assert bench.record.status == "running"
    bench.hub.asked.clear()
    bench.hub.pause_s = 0.0
    assert bench.run() == "finished"
    assert len(bench.asked()) == 1000 - done, "nothing is classified twice"
    assert bench.results() == answers(WORDS * 20)


@pytest.mark.parametrize(("owner", "client"), [("", f"job:{JOB}"), ("key:web", "key:web")])
def test_a_refused_text_is_noted_for_the_client_of_its_job(bench: Bench, owner: str, client: str) -> None:
    upload = bench.store.upload(JOB, 4, Submission(owner=owner))
    upload.add(encoded(["bad", "good"]))
    assert bench.store.create(upload, "digest", 10).outcome == "created"
    failed = EntryFailed("the model failed on this text")
    bench.hub.answer = lambda text: failed if text == "bad" else prediction(text)
    assert bench.run() == "finished"
    assert bench.hub.commands == [NoteRefused(entry_id("bad"), client)]


def test_the_rate_of_a_job_is_that_of_its_last_seconds() -> None:
    assert smoothed(0.0, 10, 0.5) == 20.0, "the first one counts at once"
    assert smoothed(100.0, 0, 1.0) == 80.0
    assert smoothed(100.0, 10, 1.0) == 82.0
    assert smoothed(100.0, 50, 5.0) == smoothed(100.0, 100, 10.0) == 10.0
    assert smoothed(0.0, 10, 0.0) == 200.0


def test_an_older_attempt_ends_when_a_newer_has_begun(bench: Bench) -> None:
    bench.job(WORDS * 20, chunk_texts=4)
    bench.hub.pause_s = 0.02
    began = False

    def begin_another() -> bool:
        nonlocal began
        if not began:
            began = True
            assert bench.store.start(JOB).number == 2
        return False

    assert bench.run(begin_another, job_in_flight=8) == "superseded"
    assert bench.record.status == "running"


def test_a_job_over_its_time_fails_and_keeps_what_it_has(bench: Bench) -> None:
    bench.job(WORDS, chunk_texts=4)
    bench.hub.pause_s = 0.3
    assert bench.run(job_timeout_s=1, job_in_flight=4) == "failed"
    record = bench.record
    assert record.error_code == "job_timeout"
    assert record.done > 0
    assert bench.results() == answers(WORDS[: record.done])


@pytest.mark.parametrize(("ran_ms", "status"), [(500, "finished"), (1500, "failed")])
def test_the_time_of_earlier_attempts_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ran_ms: int, status: str
) -> None:
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.01)
    bench.job(WORDS[:2], chunk_texts=1)
    bench.store.release(bench.store.start(JOB), ran_ms)
    bench.hub.pause_s = 0.02
    assert bench.run(job_timeout_s=1, job_in_flight=1) == status


def test_how_long_a_job_has_run_is_stored_with_its_results_and_its_interruption(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "FLUSH_EVERY_S", 0.01)
    stored: list[int] = []
    append = bench.store.append

    def recorded(*args: Any, **more: Any) -> str:
        stored.append(more["ran_ms"])
        return append(*args, **more)

    monkeypatch.setattr(bench.store, "append", recorded)
    bench.job(WORDS, chunk_texts=1)
    bench.hub.pause_s = 0.02
    with pytest.raises(Interrupted):
        bench.run(lambda: len(stored) == 5, job_in_flight=1)
    assert stored == sorted(stored)
    assert 4 * 10 <= stored[-1] < 20_000
    assert bench.store.start(JOB).ran_ms == stored[-1]


def test_a_job_that_has_ended_is_not_run_again(bench: Bench) -> None:
    bench.job(WORDS)
    bench.run()
    bench.hub.asked.clear()
    assert bench.run() == "finished"
    assert bench.asked() == []
    assert bench.record.attempt == 1


def test_a_job_nobody_knows_is_nothing_to_run(bench: Bench) -> None:
    assert bench.run() == "gone"


def test_a_job_whose_attempts_end_without_progress_fails(bench: Bench) -> None:
    bench.job(WORDS)
    for _ in range(5):
        assert bench.store.start(JOB).status == "running"
    assert bench.run() == "failed"
    assert bench.record.error_code == "job_stalled"


def test_being_asked_to_stop_is_no_lack_of_progress(bench: Bench) -> None:
    bench.job(WORDS)
    bench.hub.pause_s = 5.0
    for _ in range(7):
        with pytest.raises(Interrupted):
            bench.run(lambda: True)
    bench.hub.pause_s = 0.0
    assert bench.run() == "finished"


def test_an_unforeseen_error_ends_the_attempt_and_not_the_job(bench: Bench) -> None:
    bench.job(WORDS)
    bench.hub.refusal, bench.hub.refuses = RuntimeError("unforeseen"), 1
    with pytest.raises(ExceptionGroup):
        bench.run()
    assert bench.record.status == "running"
    assert bench.run() == "finished"


@pytest.mark.parametrize(("separate", "tenant"), [(False, ""), (True, "key:web")])
def test_finding_21_a_job_uses_the_results_of_its_own_client(
    fake_redis: FakeRedis, separate: bool, tenant: str
) -> None:
    """The ids of its texts are those that POST /predict of the same key asks for."""
    bench = Bench(JobStore(fake_redis.sync, "unit", 60), FakeHub(lane="bulk", tenant=tenant))
    upload = bench.store.upload(JOB, 4, Submission(owner="key:web"))
    upload.add(encoded(["a", "b"]))
    assert bench.store.create(upload, "digest", 10).outcome == "created"
    assert bench.run(separate_clients=separate) == "finished"
    assert [ids for _, ids in bench.cache.lookups] == [[entry_id(text, tenant) for text in ("a", "b")]]
    assert bench.asked() == ["a", "b"], "FakeHub has checked their ids"


def test_redis_stood_still_while_it_took_many_large_results_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model with 151 labels, 64 chunks have 97 MB."""
    sizes: list[int] = []
    append = bench.store.append

    def recorded(attempt: Attempt, at: int, chunks: Sequence[bytes], **more: Any) -> str:
        sizes.append(sum(map(len, chunks)))
        return append(attempt, at, chunks, **more)

    monkeypatch.setattr(bench.store, "append", recorded)
    line = b'"' + b"x" * 100_000 + b'"'
    bench.hub.answer = lambda text: prediction(text)._replace(fragment=line)
    bench.job([f"text {number}" for number in range(120)])
    assert bench.run() == "finished"
    assert len(bench.results()) == 120
    assert max(sizes) < 1024**2 + 4 * len(line) + 4


@pytest.mark.parametrize(("bound", "many"), [("FLUSH_CHUNKS", 3), ("FLUSH_BYTES", 3000)])
def test_results_are_appended_as_soon_as_they_are_many_or_large(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bound: str, many: int
) -> None:
    sizes: list[int] = []
    append = bench.store.append

    def recorded(attempt: Attempt, at: int, chunks: Sequence[bytes], **more: Any) -> str:
        sizes.append(len(chunks))
        return append(attempt, at, chunks, **more)

    monkeypatch.setattr(bench.store, "append", recorded)
    monkeypatch.setattr("batcher.jobs.runner.FLUSH_EVERY_S", 60)
    monkeypatch.setattr(f"batcher.jobs.runner.{bound}", many)
    bench.hub.answer = lambda text: prediction(text)._replace(fragment=b'"' + b"x" * 998 + b'"')
    bench.job(WORDS[:8], chunk_texts=1)
    assert bench.run() == "finished"
    assert sizes == [3, 3, 2]


def test_a_job_whose_texts_were_evicted_failed_as_stalled(bench: Bench) -> None:
    """After five attempts, and without a word about its texts."""
    bench.job(WORDS, chunk_texts=4)
    bench.store._client.hdel(f"{{millrace-jobs:unit}}:job:{JOB}:input", "3")
    assert bench.run() == "failed"
    assert (bench.record.error_code, bench.record.attempt) == ("texts_missing", 1)
    assert "maxmemory-policy" in bench.record.error
