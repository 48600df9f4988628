"""The contract of the job store, on a fake and a real Redis: nothing goes backwards or is doubled."""

from __future__ import annotations

import json
import time
from unittest.mock import Mock

import pytest
import redis

from batcher.errors import DataMissing
from batcher.jobs import store as store_module
from batcher.jobs.records import Attempt, Counts, JobRecord, Totals
from batcher.jobs.results import encode_models
from batcher.jobs.rq_queue import JobQueue
from batcher.jobs.store import MAX_STALLED, PROCESS_DIGITS, JobStore
from batcher.jobs.upload import UNBOUNDED, Budget, NoRoom, Submission, encode_text
from batcher.messages import fragment
from batcher.settings import JobSettings
from tests.conftest import encoded
from tests.servers import RedisServer

JOB = "a" * 32
LINES = [b'["0"]\n["1"]\n["2"]', b'["3"]\n["4"]\n["5"]', b'["6"]']


@pytest.fixture
def store(client: redis.Redis) -> JobStore:
    return JobStore(client, "jobs", 60)


def create(
    store: JobStore,
    job_id: str = JOB,
    digest: str = "d",
    most: int = 100,
    submission: Submission = Submission(),  # noqa: B008
) -> str:
    """A job of seven texts in three chunks."""
    upload = store.upload(job_id, 3, submission)
    for chunk in (["0", "1", "2"], ["3", None, "5"], ["6"]):
        upload.add(encoded(chunk))
    return store.create(upload, digest, most).outcome


def stored(*texts: str | None) -> bytes:
    """A chunk of texts in Redis."""
    return b"[%b]" % b",".join(encoded(texts))


def keys(client: redis.Redis) -> list[bytes]:
    """Every key that a job has made; totals and usage do not belong to a job."""
    return [key for key in client.scan_iter() if not key.endswith(b":jobs:totals") and b":usage:" not in key]


def record_of(store: JobStore, job_id: str = JOB) -> JobRecord:
    record = store.record(job_id)
    assert record is not None
    return record


def append(
    store: JobStore, attempt: Attempt, first: int, *chunks: bytes, failed: int = 0, truncated: int = 0
) -> str:
    counts = Counts(failed, truncated, 9 * truncated, unknown=truncated)
    return store.append(attempt, first, chunks, counts=counts, rate=5.0, model="m@r")


def lines(store: JobStore, start: int, stop: int) -> list[bytes]:
    return [line for chunk in store.output(record_of(store), start, stop) for line in chunk]


def test_an_upload_becomes_a_job_with_its_input(store: JobStore) -> None:
    assert create(store) == "created"
    record = record_of(store)
    assert (record.status, record.total, record.done, record.failed) == ("queued", 7, 0, 0)
    assert record.held_bytes == len('["0","1","2"]' + '["3",null,"5"]' + '["6"]')
    assert store.input(JOB, 1) == ["3", None, "5"]
    assert store.input(JOB, 3) is None
    assert (store.totals().queued, store.position(record)) == (1, 1)
    assert store.open_ids() == [JOB]


def test_a_text_takes_the_memory_of_its_utf_8() -> None:
    assert encode_text("für 文") == '"für 文"'.encode()


def test_an_upload_that_is_dropped_leaves_nothing(store: JobStore, client: redis.Redis) -> None:
    upload = store.upload(JOB, 3)
    upload.add(encoded(["0", "1", "2"]))
    upload.drop()
    assert keys(client) == []


def test_a_job_that_waited_for_longer_than_its_lifetime_was_dropped(client: redis.Redis) -> None:
    """Behind another one, or while no jobs worker was there to renew it. Only ended jobs have a lifetime."""
    store = JobStore(client, "jobs", 0.3)
    assert store.files.put("f" * 32, [b"lines"], "one", Budget(10_000, 10_000)) == (5, 1)
    store.files.complete("f" * 32, "in.jsonl", (5, 1), "", 1)
    create(store, submission=Submission(batch=json.dumps({"file": "f" * 32})))
    create(store, "b" * 32)
    running = store.start("b" * 32)
    append(store, running, 0, LINES[0])
    assert all(client.ttl(key) == -1 for key in keys(client))
    time.sleep(0.7)
    assert store.newest(10)[0] == ["b" * 32, JOB]
    assert append(store, running, 1, *LINES[1:]) == "running"
    attempt = store.start(JOB)
    assert append(store, attempt, 0, *LINES) == "running"
    assert store.files.record("f" * 32) is not None, "the file has the ids of the results"
    store.end(attempt, "finished")
    assert client.pttl("{millrace-jobs:jobs}:file:" + "f" * 32) > 0
    of_ended = [key for key in keys(client) if JOB.encode() in key]
    assert len(of_ended) == 2, "its record and its results"
    assert all(0 < client.pttl(key) <= 300 for key in of_ended)
    time.sleep(0.4)
    assert store.newest(10)[0] == ["b" * 32]
    store.end(running, "finished")
    time.sleep(0.7)
    assert keys(client) == []


def test_a_batch_with_a_short_lifetime_took_the_webhooks_of_other_jobs_along(
    store: JobStore, client: redis.Redis
) -> None:
    """Its end gave its own lifetime to what all jobs share: webhooks that were due, and the totals."""
    create(store, submission=Submission(webhook="https://a.example/"))
    create(store, "b" * 32, submission=Submission(webhook="https://b.example/", ttl_s=1))
    for job_id in (JOB, "b" * 32):
        store.end(store.start(job_id), "finished")
    assert client.pttl(f"{{millrace-jobs:jobs}}:job:{'b' * 32}") <= 1000
    for shared in ("webhooks", "jobs:totals"):
        assert client.pttl(f"{{millrace-jobs:jobs}}:{shared}") > 50_000


def test_a_file_went_with_the_results_of_its_last_batch_before_those_of_an_earlier_one(
    store: JobStore, client: redis.Redis
) -> None:
    store.files.put("f" * 32, [b"lines"], "", UNBOUNDED)
    store.files.complete("f" * 32, "in.jsonl", (5, 1), "", 1)
    for job_id, ttl_s in ((JOB, None), ("b" * 32, 1)):
        create(store, job_id, submission=Submission(batch=json.dumps({"file": "f" * 32}), ttl_s=ttl_s))
        store.end(store.start(job_id), "finished")
    assert client.pttl(f"{{millrace-jobs:jobs}}:file:{'f' * 32}") > 50_000


def test_every_key_of_a_job_ends_by_itself(store: JobStore, client: redis.Redis) -> None:
    store.upload("b" * 32, 3).add(encoded(["left alone"]))
    create(store)
    attempt = store.start(JOB)
    append(store, attempt, 0, *LINES)
    assert len(keys(client)) == 9
    store.end(attempt, "finished")
    assert all(client.ttl(key) > 0 for key in keys(client))


def test_the_same_call_twice_makes_one_job(store: JobStore) -> None:
    upload = store.upload(JOB, 3)
    upload.add(encoded(["0"]))
    assert store.create(upload, "d", 10).outcome == "created"
    assert store.create(upload, "d", 10).outcome == "created"
    assert store.totals().queued == 1


def test_a_second_upload_finds_the_first_ones_job(store: JobStore, client: redis.Redis) -> None:
    create(store, digest="first")
    upload = store.upload(JOB, 3)
    upload.add(encoded(["other"]))
    created = store.create(upload, "second", 10)
    assert (created.outcome, created.digest) == ("exists", "first")
    assert store.input(JOB, 0) == ["0", "1", "2"]
    assert not [key for key in keys(client) if b":upload:" in key]


def test_half_of_the_places_are_left_to_other_clients(store: JobStore) -> None:
    def submit(number: int, name: str) -> str:
        return create(store, f"{number:032}", most=5, submission=Submission(client=name))

    assert [submit(number, "one") for number in range(4)] == [*["created"] * 3, "client_full"]
    assert (store.crowded("one", 5), store.crowded("other", 5)) == ("client_full", "")
    assert [submit(number, "other") for number in range(4, 7)] == [*["created"] * 2, "full"]
    assert store.crowded("third", 5) == "full"
    store.start(f"{0:032}")
    assert submit(7, "one") == "created"


def test_no_more_jobs_wait_than_may(store: JobStore, client: redis.Redis) -> None:
    assert create(store, "b" * 32, most=1) == "created"
    assert create(store, most=1) == "full"
    assert store.record(JOB) is None
    assert not [key for key in keys(client) if b":upload:" in key]
    store.start("b" * 32)
    assert create(store, most=1) == "created", "one that runs does not wait"


def test_an_upload_whose_time_is_over_is_lost(store: JobStore) -> None:
    upload = store.upload(JOB, 3)
    upload.add(encoded(["0"]))
    upload.drop()
    assert store.create(upload, "d", 10).outcome == "lost"
    assert store.record(JOB) is None


def test_results_are_read_by_place_while_the_rest_runs(store: JobStore) -> None:
    create(store)
    attempt = store.start(JOB)
    assert append(store, attempt, 0, *LINES[:2], failed=1) == "running"
    record = record_of(store)
    assert (record.done, record.failed, record.rate, record.model) == (6, 1, 5.0, "m@r")
    assert record.remaining_s == 0.2
    assert lines(store, 0, 7) == [b'["%d"]' % number for number in range(6)]
    assert lines(store, 2, 4) == [b'["2"]', b'["3"]']
    assert lines(store, 5, 5) == []
    append(store, attempt, 2, LINES[2])
    assert record_of(store).done == 7
    assert lines(store, 5, 99) == [b'["5"]', b'["6"]']


def test_an_attempt_knows_what_is_left_to_do(store: JobStore) -> None:
    create(store)
    first = store.start(JOB)
    assert (first.status, first.number, first.first, first.chunks, first.chunk_texts) == (
        "running",
        1,
        0,
        3,
        3,
    )
    store.append(first, 0, [b"0\n1\n2"], counts=Counts(), rate=1.0, model="m@r", ran_ms=250)
    second = store.start(JOB)
    assert (second.number, second.first, second.chunks) == (2, 1, 3)
    assert (first.ran_ms, second.ran_ms, second.left) == (0, 250, 4)


def test_results_without_counts_add_texts_alone_and_no_results_nothing(
    store: JobStore, client: redis.Redis
) -> None:
    create(store, submission=Submission(key="web"))
    attempt = store.start(JOB)
    for chunks in ([LINES[0]], []):
        sent = store.append(attempt, 0, chunks, counts=Counts(), rate=5.0, model="m@r")
        assert sent == "running"
        record, totals = record_of(store), store.totals()
        assert (record.done, record.failed, record.failed_bytes, record.unknown) == (3, 0, 0, 0)
        assert (record.truncated, record.truncated_tokens) == (0, 0)
        assert (totals.texts, totals.failed_texts) == (3, 0)
        (used,) = [client.hgetall(key) for key in client.scan_iter() if b":usage:" in key]
        assert {name: int(count) for name, count in used.items() if int(count)} == {b"web texts": 3}


def test_a_job_that_stalled_is_kept_like_any_other_that_failed(store: JobStore, client: redis.Redis) -> None:
    create(store)
    client.hset("{millrace-jobs:jobs}:job:" + JOB, mapping={"stalled": 99, "stalled_at": 0})
    (attempt,) = store.claim(1, 0).attempts
    assert attempt.status == record_of(store).status == "failed"
    assert all(client.pttl(key) > 50_000 for key in keys(client) if JOB.encode() in key)


def test_attempts_that_make_progress_are_never_too_many(store: JobStore) -> None:
    upload = store.upload(JOB, 1)
    for number in range(8):
        upload.add(encoded([str(number)]))
    assert store.create(upload, "d", 10).outcome == "created"
    for number in range(8):
        attempt = store.start(JOB)
        assert attempt.status == "running"
        append(store, attempt, number, b"[]")


def test_an_append_that_is_sent_twice_counts_once(store: JobStore) -> None:
    create(store)
    attempt = store.start(JOB)
    for _ in range(2):
        assert append(store, attempt, 0, *LINES[:2], failed=1, truncated=2) == "running"
    assert (record_of(store).done, record_of(store).failed) == (6, 1)
    assert (record_of(store).truncated, record_of(store).truncated_tokens) == (2, 18)
    assert record_of(store).unknown == 2


def labelled(*labels: str) -> bytes:
    """A chunk of results with these labels, among others; "-" is an error."""
    scored = {label: fragment(("another", label), (0.4, 0.6)) for label in labels}
    return b"\n".join(b'{"error":{}}' if label == "-" else scored[label] for label in labels)


def test_a_chunk_that_two_attempts_computed_counts_once(store: JobStore) -> None:
    """The first was killed, or only slow, after it had appended a chunk, or before."""
    create(store)
    killed = store.start(JOB)
    append(store, killed, 0, labelled("__proto__", "", "__proto__"))
    assert record_of(store).labels == {"__proto__": 2, "": 1}
    again = store.start(JOB)
    assert append(store, killed, 1, labelled("x", "x", "x")) == "superseded"
    for _ in range(2):  # its reply was lost
        assert append(store, again, 1, labelled("-", "two\nlines", "7 ünï"), labelled("7 ünï")) == "running"
    assert record_of(store).labels == {"__proto__": 2, "": 1, "two\nlines": 1, "7 ünï": 2}
    store.end(again, "finished")
    store.delete(JOB)
    create(store)
    assert record_of(store).labels == {}


def test_a_record_has_few_of_thousands_of_labels(store: JobStore) -> None:
    upload = store.upload(JOB, 1000)
    for _ in range(2):
        upload.add(encoded(["a text"] * 1000))
    store.create(upload, "d", 10)
    attempt = store.start(JOB)
    append(store, attempt, 0, labelled("often", "often", *map(str, range(998))))
    append(store, attempt, 1, labelled(*["often"] * 999, "new"))
    labels = record_of(store).labels
    assert labels.pop("often") == 1001
    assert 200 <= len(labels) < 250
    assert set(labels.values()) == {1}


def test_results_are_taken_in_order_only(store: JobStore) -> None:
    create(store)
    attempt = store.start(JOB)
    assert append(store, attempt, 1, LINES[1]) == "superseded"
    assert record_of(store).done == 0


def test_a_job_whose_last_results_went_with_their_master_waited_for_20_s(
    store: JobStore, client: redis.Redis
) -> None:
    """Until another process took it for lost. The replica that took the master's place lacked a chunk."""
    create(store)
    token = "0" * PROCESS_DIGITS
    (attempt,) = store.claim(1, 0, token=token + "1").attempts
    append(store, attempt, 0, LINES[0])
    client.rpop("{millrace-jobs:jobs}:job:" + JOB + ":output")
    assert append(store, attempt, 1, LINES[1]) == "superseded"
    (again,) = store.claim(1, 0, token=token + "2").attempts
    assert (again.job_id, again.first) == (JOB, 0)
    assert append(store, attempt, 0, LINES[0]) == "superseded"


def test_an_attempt_that_had_read_a_forgotten_text_went_on_with_it(store: JobStore) -> None:
    """It was classified and cached again. The attempt ends, and the next one reads what is left."""
    create(store)
    token = "0" * PROCESS_DIGITS
    (attempt,) = store.claim(1, 0, token=token + "1").attempts
    append(store, attempt, 0, LINES[0])
    chunk = stored("3", None, "5")
    assert store.redact(JOB, 1, b"another", "[]") == 0
    assert append(store, attempt, 1) == "running"
    assert store.redact(JOB, 1, chunk, '["3", null, null]') == 1
    assert append(store, attempt, 1, LINES[1]) == "superseded"
    assert store.redact(JOB, 2, stored("6"), "[null]") == 1, "no attempt runs"
    for number in range(2, MAX_STALLED + 4):  # none of which counts as one without progress
        (again,) = store.claim(1, 0, token=f"{token}{number}").attempts
        assert (again.job_id, again.first) == (JOB, 1)
        assert store.redact(JOB, 2, b"[null]", "[null]") == 1
    (again,) = store.claim(1, 0, token=token).attempts
    assert [store.input(JOB, number) for number in (1, 2)] == [["3", None, None], [None]]
    assert append(store, again, 1, *LINES[1:]) == "running"
    store.end(again, "finished")
    assert store.record(JOB).status == "finished"  # type: ignore[union-attr]


def test_a_job_that_has_ended_is_not_begun_again_where_its_kept_text_is_forgotten(store: JobStore) -> None:
    create(store, submission=Submission(keep_input=True))
    store.end(store.start(JOB), "finished")
    assert store.redact(JOB, 2, stored("6"), "[null]") == 1
    assert record_of(store).status == "finished"
    assert store.claim(1, 1).attempts == []


def test_only_the_newest_attempt_may_write(store: JobStore) -> None:
    create(store)
    older = store.start(JOB)
    append(store, older, 0, LINES[0])
    newer = store.start(JOB)
    assert (newer.number, newer.first) == (2, 1)
    assert append(store, older, 1, LINES[1]) == "superseded"
    assert store.end(older, "failed", "x", "y") == "superseded"
    assert append(store, newer, 1, *LINES[1:]) == "running"
    assert store.end(newer, "finished") == "finished"


@pytest.mark.parametrize("ending", ["finished", "failed", "cancelled"])
def test_what_has_ended_stays_as_it_ended(store: JobStore, ending: str) -> None:
    create(store)
    attempt = store.start(JOB)
    append(store, attempt, 0, *LINES)
    store.end(attempt, ending)  # type: ignore[arg-type]
    before = record_of(store)
    assert store.cancel(JOB) == ending
    assert store.end(attempt, "failed", "abandoned", "says RQ") == ending
    assert store.start(JOB).status == ending
    assert append(store, attempt, 3, LINES[0]) == ending
    assert record_of(store) == before
    assert before.rate == 0.0
    assert store.input(JOB, 0) is None, "it was not asked to be kept"
    assert store.open_ids() == []


def test_a_queued_job_is_cancelled_before_it_runs(store: JobStore) -> None:
    create(store)
    assert store.cancel(JOB) == "cancelled"
    assert store.start(JOB).status == "cancelled"
    assert (store.totals().queued, store.position(record_of(store))) == (0, None)


def test_a_script_forgotten_by_the_server_is_sent_again(store: JobStore, client: redis.Redis) -> None:
    create(store)
    client.script_flush()
    assert store.start(JOB).status == "running"


def test_a_deleted_job_leaves_nothing_but_only_an_ended_one_is(store: JobStore, client: redis.Redis) -> None:
    create(store)
    assert not store.delete(JOB)
    append(store, store.start(JOB), 0, *LINES)
    assert not store.delete(JOB)
    store.cancel(JOB)
    assert store.delete(JOB)
    assert keys(client) == []
    assert not store.delete(JOB)


def test_positions_follow_the_order_of_arrival(store: JobStore) -> None:
    ids = [letter * 32 for letter in "cab"]
    for job_id in ids:
        create(store, job_id)
    assert [store.position(record_of(store, job_id)) for job_id in ids] == [1, 2, 3]
    assert store.newest(10) == (ids[::-1], None)
    first, following = store.newest(1)
    assert (first, store.newest(2, following or "")) == (ids[2:], (ids[1::-1], None))


def test_batches_were_found_by_reading_every_job(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_LOOKS", 6)
    ids = [f"{number:032x}" for number in range(10)]
    for number, job_id in enumerate(ids):
        create(store, job_id, submission=Submission(batch="" if number % 3 else "{}"))
    found, following = store.newest(5, batches=True)
    assert found == [ids[9], ids[6]], "a look examines a limited number of jobs"
    assert store.newest(5, following or "", batches=True) == ([ids[3], ids[0]], None)


def test_the_totals_know_how_long_the_oldest_job_has_waited(store: JobStore) -> None:
    def age_ms(job_id: str) -> float:
        return time.time() * 1000 - record_of(store, job_id).created_ms

    other = "b" * 32
    assert store.totals() == Totals(
        queued=0, running=0, oldest_ms=0, texts=0, failed_texts=0, ended={}, held_bytes=0
    )
    create(store)
    time.sleep(0.05)
    create(store, other)
    both = store.totals()
    assert (both.queued, both.running) == (2, 0)
    assert 50 <= both.oldest_ms <= age_ms(JOB)
    store.start(JOB)
    time.sleep(0.01)
    rest = store.totals()
    assert (rest.queued, rest.running, rest.held_bytes) == (1, 1, both.held_bytes)
    assert 10 <= rest.oldest_ms <= age_ms(other)


def test_the_history_of_the_page_is_kept_for_a_while(
    store: JobStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.jobs.store.HISTORY_S", 3)
    for number in range(5):
        store.remember(b"%d" % number)
    assert store.remembered() == [b"2", b"3", b"4"]
    assert 0 < client.ttl("{millrace-jobs:jobs}:history") <= 3


def test_the_totals_count_texts_and_how_jobs_ended(store: JobStore) -> None:
    create(store)
    create(store, "b" * 32)
    create(store, "c" * 32)
    attempt = store.start(JOB)
    append(store, attempt, 0, LINES[0], failed=2)
    append(store, attempt, 1, *LINES[1:], failed=1)
    store.end(attempt, "finished")
    store.cancel("b" * 32)
    totals = store.totals()
    assert (totals.texts, totals.failed_texts, totals.ended) == (7, 3, {"finished": 1, "cancelled": 1})


def test_a_job_that_is_gone_is_not_open(store: JobStore, client: redis.Redis) -> None:
    create(store)
    client.delete(*[key for key in keys(client) if b":job:" in key])
    assert store.open_ids() == []
    assert store.totals().queued == 0
    gone = store.start(JOB)
    numbers = gone.number, gone.first, gone.chunks, gone.chunk_texts, gone.ran_ms
    assert (gone.status, *numbers) == ("gone", 0, 0, 0, 0, 0)
    assert store.cancel(JOB) == "gone"


def test_a_job_is_gone_only_if_a_server_that_accepts_writes_says_so(
    store: JobStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that has become a replica refuses, and its connection is then opened again elsewhere."""
    create(store)

    def refused(key: str, *fields: str) -> None:
        raise redis.exceptions.ReadOnlyError(key)

    monkeypatch.setattr(client, "hdel", refused)
    assert record_of(store).status == "queued"
    with pytest.raises(redis.exceptions.ReadOnlyError, match="b" * 32):
        store.record("b" * 32)


def test_a_record_of_an_earlier_version_lacks_what_came_later(store: JobStore, client: redis.Redis) -> None:
    create(store, submission=Submission(keep_input=True))
    attempt = store.start(JOB)
    append(store, attempt, 0, LINES[0], failed=1, truncated=1)
    fields = {b"rate", b"input_bytes", b"output_bytes", b"truncated", b"truncated_tokens", b"unknown"}
    (key,) = (key for key in keys(client) if key.endswith(f":job:{JOB}".encode()))
    assert client.hdel(key, *fields) == len(fields)
    record = record_of(store)
    assert (record.rate, record.held_bytes, record.truncated, record.truncated_tokens) == (0, 0, 0, 0)
    assert record.unknown == 0
    store.end(attempt, "finished")
    assert held(client) == {}


def test_results_that_are_gone_are_no_results(store: JobStore, client: redis.Redis) -> None:
    create(store)
    append(store, store.start(JOB), 0, *LINES)
    record = record_of(store)
    client.delete(*[key for key in keys(client) if key.endswith(b":output")])
    with pytest.raises(DataMissing):
        list(store.output(record, 0, 7))


def test_finding_03_an_earlier_job_of_the_same_id_writes_nothing(store: JobStore) -> None:
    """Its run was cut off and comes back after the job was deleted and handed in again with other texts."""
    create(store, digest="the old texts")
    old = store.start(JOB)
    store.cancel(JOB)
    assert store.delete(JOB)
    assert append(store, old, 0, b'["OLD"]') == "gone"
    create(store, digest="the new texts")
    assert append(store, old, 0, b'["OLD"]') == "superseded"
    new = store.start(JOB)
    assert append(store, old, 0, b'["OLD"]') == "superseded"
    assert store.end(old, "failed", "job_timeout", "of the old run") == "superseded"
    assert append(store, new, 0, *LINES) == "running"
    assert store.end(new, "finished") == "finished"
    assert lines(store, 0, 7) == [b'["%d"]' % number for number in range(7)]


def test_results_that_outlived_their_record_reach_no_later_job(store: JobStore, client: redis.Redis) -> None:
    """A Redis that may evict took the record and left the results."""
    create(store, digest="the old texts")
    append(store, store.start(JOB), 0, b'["OLD"]')
    client.delete(f"{{millrace-jobs:jobs}}:job:{JOB}")
    create(store, digest="the new texts")
    new = store.start(JOB)
    assert new.first == 0
    assert append(store, new, 0, *LINES) == "running"
    assert lines(store, 0, 7) == [b'["%d"]' % number for number in range(7)]


def test_the_same_start_twice_is_one_attempt(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client library sends it again when the reply is lost."""
    create(store)
    monkeypatch.setattr("batcher.jobs.store.secrets.token_hex", lambda size: "t" * size)
    assert [store.start(JOB).number for _ in range(10)] == [1] * 10
    assert record_of(store).status == "running"


def held(client: redis.Redis) -> dict[bytes, bytes]:
    return client.hgetall("{millrace-jobs:jobs}:jobs:bytes")


def test_finding_08_jobs_hold_no_more_bytes_than_they_may(store: JobStore, client: redis.Redis) -> None:
    """Nothing of a chunk that does not fit is stored, and what goes makes room."""
    room = Budget(total=4700, client=3200)
    one, other = Submission(client="one"), Submission(client="other")
    first = store.upload("1" * 32, 3, one, room)
    first.add(encoded(["x" * 500] * 3))
    assert store.create(first, "d", 10).outcome == "created"
    second = store.upload("2" * 32, 3, one, room)
    with pytest.raises(NoRoom, match="client_full"):
        second.check(2000)
    second.add(encoded(["x" * 200]))
    with pytest.raises(NoRoom, match="client_full"):
        second.add(encoded(["x" * 700] * 3))
    assert client.hlen(f"{{millrace-jobs:jobs}}:job:{'2' * 32}:upload:{second.nonce}") == 1
    with pytest.raises(NoRoom, match="large"):
        store.upload("3" * 32, 3, other, room).add(encoded(["x" * 2000] * 3))
    third = store.upload("3" * 32, 3, other, room)
    third.add(encoded(["x" * 500] * 3))
    with pytest.raises(NoRoom, match=r"^full"):
        third.add(encoded(["x" * 900]))
    third.drop()
    second.drop()
    assert set(held(client)) == {b"all", b"client:one"}
    store.cancel("1" * 32)
    store.delete("1" * 32)
    assert held(client) == {}
    assert store.create(second, "d", 10).outcome == "lost"
    assert keys(client) == []


@pytest.mark.parametrize(("total", "own"), [(700, 9000), (9000, 700)])
def test_finding_08_a_budget_can_be_used_to_its_last_byte(store: JobStore, total: int, own: int) -> None:
    """A chunk with a text of 496 characters takes 700 bytes, with its result and the names of its models."""
    texts, one = encoded(["x" * 496]), Submission(client="one")
    with pytest.raises(NoRoom, match="large"):
        store.upload(JOB, 1, one, Budget(min(total, 699), min(own, 699))).add(texts)
    store.upload(JOB, 1, one, Budget(total, own)).add(texts)
    refusal = "client_full" if own == 700 else "^full"
    with pytest.raises(NoRoom, match=refusal):
        store.upload("2" * 32, 1, one, Budget(total + 699, own + 699)).add(texts)
    store.upload("3" * 32, 1, one, Budget(total + 700, own + 700)).add(texts)


@pytest.mark.parametrize("keep_input", [False, True])
def test_finding_08_the_input_goes_at_the_end_unless_it_was_asked_to_be_kept(
    store: JobStore, client: redis.Redis, keep_input: bool
) -> None:
    create(store, submission=Submission(client="one", keep_input=keep_input))
    attempt = store.start(JOB)
    append(store, attempt, 0, *LINES)
    results = sum(map(len, LINES))
    before = int(held(client)[b"all"])
    assert before > results
    store.end(attempt, "finished")
    assert int(held(client)[b"all"]) == (before if keep_input else results)
    assert record_of(store).held_bytes == int(held(client)[b"client:one"])
    assert (store.input(JOB, 0) is not None) == keep_input
    assert lines(store, 0, 7) == [b'["%d"]' % number for number in range(7)]


def test_finding_08_a_chunk_that_is_sent_twice_counts_once(store: JobStore, client: redis.Redis) -> None:
    upload = store.upload(JOB, 3, budget=Budget(1000, 1000))
    upload.add(encoded(["0"]))
    once = held(client)
    upload.chunks = 0
    upload.add(encoded(["0"]))
    assert held(client) == once


def test_finding_15_listing_a_few_of_a_thousand_jobs_costs_a_few_commands(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        store = JobStore(client, "jobs", 60)
        for number in range(1000):
            job_id = f"{number:032x}"
            create(store, job_id, most=2000)
            if number % 500 == 7:
                store.end(store.start(job_id), "failed", "x", "y")
        before = client.info("stats")["total_commands_processed"]
        ids, following = store.newest(1, status="failed")
        store.records(ids)
        rest, end = store.newest(1, following or "", status="failed")
        spent = client.info("stats")["total_commands_processed"] - before
    assert (ids, rest, end) == ([f"{507:032x}"], [f"{7:032x}"], None)
    assert spent < 40


def test_finding_22_nothing_is_left_of_jobs_whose_time_is_over(client: redis.Redis) -> None:
    """Not even a place in a list, while other jobs keep the lists alive."""
    short = JobStore(client, "jobs", 0.3)
    ended = short.start(JOB) if create(short) == "created" else None
    assert ended is not None
    append(short, ended, 0, LINES[0])
    short.end(ended, "failed", "x", "y")
    create(short, "b" * 32)
    short.cancel("b" * 32)
    left = short.upload("d" * 32, 3)
    left.add(encoded(["left alone"]))
    client.zadd("{millrace-jobs:jobs}:jobs:ends", {f"upload:{'d' * 32}:upload:{left.nonce}": 1})
    time.sleep(0.4)
    long = JobStore(client, "jobs", 60)
    create(long, "c" * 32, submission=Submission(client="c"))
    prefix = "{millrace-jobs:jobs}:jobs"
    assert [place.partition(b":")[2] for place in client.zrange(prefix, 0, -1)] == [b"c" * 32]
    assert not client.exists(f"{prefix}:ends")
    assert not client.exists(f"{prefix}:failed")
    assert set(held(client)) == {b"all", b"client:c"}
    assert client.hlen(f"{prefix}:sizes") == 1
    assert not [key for key in keys(client) if b":job:" in key and b"c" * 32 not in key]


def test_a_file_whose_time_is_over_leaves_its_room_to_the_next(store: JobStore, client: redis.Redis) -> None:
    room = Budget(1000, 1000)
    store.files.put("f" * 32, [b"x" * 600], "one", room)
    client.zadd("{millrace-jobs:jobs}:jobs:ends", {f"file:{'f' * 32}": 1})
    assert store.files.put("e" * 32, [b"x" * 600], "one", room) == (600, 1)
    assert held(client) == {b"all": b"600", b"client:one": b"600"}


def test_an_upload_whose_time_is_over_leaves_its_room_to_the_next(
    store: JobStore, client: redis.Redis
) -> None:
    first, second = [store.upload(one * 32, 1, budget=Budget(1000, 1000)) for one in "12"]
    first.add(encoded(["x" * 600]))
    client.zadd("{millrace-jobs:jobs}:jobs:ends", {f"upload:{first.job_id}:upload:{first.nonce}": 1})
    second.add(encoded(["x" * 600]))
    assert client.hlen("{millrace-jobs:jobs}:jobs:sizes") == 1


def test_a_job_whose_time_is_over_goes_as_a_whole_and_a_later_one_of_its_id_stays(
    store: JobStore, client: redis.Redis
) -> None:
    """The list of ends decides, whatever time its keys have left."""
    create(store)
    store.cancel(JOB)
    (ends,) = [key for key in keys(client) if key.endswith(b":ends")]
    client.zadd(ends, {record_of(store).place: 1, f"0000000000000001:{'b' * 32}": 1})
    create(store, "b" * 32)
    assert store.record(JOB) is None
    assert not [key for key in keys(client) if JOB.encode() in key]
    assert record_of(store, "b" * 32).status == "queued"
    assert store.input("b" * 32, 0) == ["0", "1", "2"]


def test_finding_22_an_attempt_at_a_job_that_is_gone_leaves_no_key(
    store: JobStore, client: redis.Redis
) -> None:
    create(store)
    attempt = store.start(JOB)
    store.cancel(JOB)
    store.delete(JOB)
    store.release(attempt, 0)
    append(store, attempt, 0, *LINES)
    store.end(attempt, "finished")
    assert keys(client) == []


def test_finding_22_no_key_of_jobs_is_without_an_end_at_any_moment(redis_server: RedisServer) -> None:
    """Every write of a chunk carries its end: commands outside of scripts write nothing."""
    with redis_server.client() as client, redis_server.client() as watching, watching.monitor() as monitor:
        store = JobStore(client, "jobs", 60)
        create(store)
        attempt = store.start(JOB)
        append(store, attempt, 0, *LINES)
        store.release(attempt, 0)
        store.end(attempt, "finished")
        store.newest(10)
        store.delete(JOB)
        client.echo("the end")
        sent = set()
        while (command := monitor.next_command())["command"] != "ECHO the end":
            if command["client_type"] != "lua":
                sent.add(command["command"].split()[0].upper())
    assert sent <= {"EVAL", "EVALSHA", "HGETALL", "ZRANK", "HGET", "CLIENT", "HELLO"}


def test_a_user_that_may_not_read_statistics_sees_no_skipped_commands(
    store: JobStore, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "info", lambda section: {"unexpected_error_replies": 7})
    assert store.skipped_commands() == 7
    monkeypatch.setattr(client, "info", lambda section: {})
    assert store.skipped_commands() == 0
    refusal = redis.exceptions.NoPermissionError("this user has no permissions to run the 'info' command")
    monkeypatch.setattr(client, "info", Mock(side_effect=refusal))
    assert store.skipped_commands() == 0


def test_a_job_that_redis_has_lost_is_on_no_list(store: JobStore, client: redis.Redis) -> None:
    create(store)
    client.delete(f"{{millrace-jobs:jobs}}:job:{JOB}")
    assert store.newest(10) == ([], None)
    assert not client.exists("{millrace-jobs:jobs}:jobs")


def test_an_open_job_of_an_earlier_version_loses_its_lifetime(store: JobStore, client: redis.Redis) -> None:
    create(store)
    for key in keys(client):
        assert client.pexpire(key, 20_000)
    client.zadd("{millrace-jobs:jobs}:jobs:ends", {record_of(store).place: time.time() * 1000 + 20_000})
    assert store.open_ids() == [JOB]
    assert all(client.ttl(key) == -1 for key in keys(client))
    assert not client.exists("{millrace-jobs:jobs}:jobs:ends")


def test_chunks_of_an_attempt_that_does_not_name_its_models_have_none(store: JobStore) -> None:
    """The attempts before and after it do."""
    create(store)
    attempt = store.start(JOB)
    for number, models in enumerate(([encode_models(["a@1"] * 3)], [], [encode_models(["b@2"])])):
        chunk = [LINES[number]]
        store.append(attempt, number, chunk, counts=Counts(), rate=1.0, model="m@r", models=models)
    record = record_of(store)
    chunks = [store.models(record, start, count) for start, count in ((0, 3), (3, 3), (6, 1))]
    assert chunks == [["a@1"] * 3, [""] * 3, ["b@2"]]


def test_the_models_of_each_text_are_kept_with_its_result(store: JobStore, client: redis.Redis) -> None:
    create(store)
    attempt = store.start(JOB)
    append(store, attempt, 0, LINES[0])  # by a version that does not say
    models = [encode_models(["a@1", "b@2", ""]), encode_models(["b@2"])]
    for _ in range(2):  # sent again, nothing is added
        sent = store.append(attempt, 1, LINES[1:], counts=Counts(), rate=1.0, model="b@2", models=models)
        assert sent == "running"
    record = record_of(store)
    assert (record.models, record.done) == (["a@1", "b@2"], 7)
    assert store.models(record, 0, 3) == ["", "", ""]
    assert store.models(record, 4, 2) == ["b@2", ""]
    assert store.models(record, 6, 1) == ["b@2"]
    held = sum(map(len, LINES)) + sum(map(len, models))
    assert record.held_bytes - held == len('["0","1","2"]' + '["3",null,"5"]' + '["6"]')
    store.end(attempt, "finished")
    assert all(client.ttl(key) > 0 for key in keys(client))
    assert store.delete(JOB)
    assert not [key for key in keys(client) if b":job:" in key]


@pytest.mark.redis
def test_a_full_redis_forgets_jobs(redis_server: RedisServer) -> None:
    """It refused to take one out of RQ's queue, after the job had been cancelled."""
    with redis_server.client() as client:
        queue = JobQueue(client, JobSettings(name="jobs"))
        queue.enqueue(JOB)
        create(store := JobStore(client, "jobs", 60))
        client.config_set("maxmemory", 1)
        assert store.cancel(JOB) == "cancelled"
        queue.forget(JOB)
        assert store.delete(JOB)
        assert keys(client) == [b"rq:queues"]
