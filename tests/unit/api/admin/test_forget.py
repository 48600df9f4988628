"""`forget`, verified by reading all of Redis afterwards."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from time import process_time
from typing import Any

import pytest
import redis

from api.admin.traces import Traces
from batcher.admin.forget import CachedResults
from batcher.admin.job_eraser import JobEraser
from batcher.core.commands import (
    HELD,
    Answer,
    AskQuestion,
    EndQuestion,
    Enqueue,
    EnqueueAll,
    NoteRefused,
    Question,
)
from batcher.core.keys import SNAPSHOT_S, cache_key
from batcher.core.snapshot import Sweep
from batcher.jobs.records import Counts
from batcher.jobs.results import encode_models
from batcher.jobs.upload import Submission, account_of
from batcher.messages import Failure, entry_id
from tests.conftest import encoded
from tests.unit.api.admin.conftest import AdminApi, P, Start, keys
from tests.unit.api.admin.test_pauses import until
from tests.unit.fakes import OTHER_REVISION, REVISION, FakeHub, prediction

TEXT = "Ünïque words of one person"
FAILURE = Failure("inference_failed", "no").encode()


def everything(client: redis.Redis) -> bytes:
    """All keys and values, except the audit log, which names clients and revisions."""
    parts: list[bytes] = []
    for key in set(client.scan_iter("*")) - {f"{P}:audit".encode()}:
        kind = client.type(key)
        read: dict[bytes, Any] = {
            b"string": lambda key: [client.get(key)],
            b"hash": lambda key: [part for pair in client.hgetall(key).items() for part in pair],
            b"list": lambda key: client.lrange(key, 0, -1),
            b"zset": lambda key: client.zrange(key, 0, -1),
            b"set": lambda key: list(client.smembers(key)),
        }
        parts += [key, *read[kind](key)]
    return b"\n".join(parts)


def stays(client: redis.Redis, *needles: str) -> list[str]:
    """Which of these are anywhere in Redis, also as escaped JSON."""
    held = everything(client)
    return [one for one in needles if one.encode() in held or json.dumps(one)[1:-1].encode() in held]


def cached(api: AdminApi, text: str, tenant: str = "", revision: str = REVISION) -> None:
    result = prediction(text, revision).encode()
    api.redis.set(cache_key("default", revision, entry_id(text, tenant)), result, px=60_000)
    api.redis.set(f"{P}:res:{entry_id(text, tenant)}", result, px=60_000)


def job(api: AdminApi, *texts: str, client: str = "127.0.0.1", owner: str = "", keep: bool = True) -> str:
    job_id = entry_id("|".join(texts) + client)[:32]
    upload = api.store.upload(job_id, 2, Submission(owner, account_of(client), keep))
    for at in range(0, len(texts), 2):
        upload.add(encoded(texts[at : at + 2]))
    assert api.store.create(upload, "digest", 100).outcome == "created"
    return job_id


def finish(api: AdminApi, job_id: str, *models: str) -> None:
    """Each text is answered by the next of the models; the job shows the last."""
    models = models or (f"stub@{REVISION[:12]}",)
    attempt = api.store.start(job_id)
    lines = [b"\n".join([b"[]"] * 2)] * attempt.chunks
    names = [encode_models(models)] * attempt.chunks
    counts = Counts()
    assert (
        api.store.append(attempt, 0, lines, counts=counts, rate=1, model=models[-1], models=names)
        == "running"
    )
    api.store.end(attempt, "finished")


def refuse(api: AdminApi, text: str, client: str = "127.0.0.1", tenant: str = "") -> str:
    """A text that two workers fail on; its record is noted as an API process would."""
    entry = entry_id(text, tenant)
    worker = api.worker()
    worker.run([EnqueueAll([Enqueue([entry], [text], [5], "a", "interactive", 10_000, 1000)])])
    worker.claim(10, 100, 100)
    api.redis.set(f"{P}:failed:{entry}", "w0", px=1000)
    worker.complete([(entry, FAILURE)])
    api.redis.delete(f"{P}:reply:a", f"{P}:failed:{entry}", f"{P}:res:{entry}")
    assert worker.run([NoteRefused(entry, client, text)]) == [1]
    return entry


@pytest.mark.parametrize("separate", [False, True])
async def test_a_text_is_gone_from_all_of_redis(start: Start, separate: bool) -> None:
    own = {"separate_clients": True, "api_keys": keys(web="one", phone="two")} if separate else {}
    api = await start(**own)
    tenants = ["", "key:web", "key:gone"] if separate else [""]
    refuse(api, TEXT)
    for tenant in tenants:
        cached(api, TEXT, tenant)
        cached(api, TEXT, tenant, OTHER_REVISION)
    cached(api, "another text")
    running = job(api, "\u00fc", TEXT, "b", TEXT, "c")
    ended = job(api, TEXT, "c", client="key:web")
    finish(api, ended)
    line = json.dumps({"custom_id": "1", "body": {"input": ["x", TEXT]}}).encode()
    api.store.files.put("f" * 32, [line + b"\n"], "someone", api.store.upload("x")._budget)
    api.store.files.complete("f" * 32, "in.jsonl", (len(line), 1), "", 60)
    api.cache.keep(TEXT)
    await api.client.post("/predict", json={"text": [TEXT]}, headers={"x-api-key": "one"})

    answer = await api.post("/forget", text=TEXT, tenants=["key:gone"])
    removed = answer.json()["removed"]
    ids = [entry_id(TEXT, tenant) for tenant in tenants]
    assert stays(api.redis, TEXT, *ids) == []
    assert removed == {
        "cached": 2 * len(tenants),
        "results": len(tenants),
        "refused": 1,
        "jobs": 3,
        "files": 1,
        "waiting": 0,
    }
    assert answer.json()["keys"] == sum(removed.values())
    assert api.redis.hgetall(f"{{millrace-jobs:default}}:job:{running}:input") == {
        b"0": '["\u00fc", null]'.encode(),
        b"1": b'["b", null]',
        b"2": b'["c"]',
    }
    assert api.store.input(ended, 0) == [None, "c"]
    assert stays(api.redis, entry_id("another text")), "only what was asked for is removed"
    lookups = len(api.cache.lookups)
    await api.client.post("/predict", json={"text": [TEXT]}, headers={"x-api-key": "one"})
    assert len(api.cache.lookups) == lookups + 1, "this process has forgotten it, too"


QUEUES = ("", "@1", "topics", "topics@7", "org/name")


def kept_of_models(api: AdminApi, text: str, client: str = "") -> None:
    """What models keep that no worker serves now: results, and a refused text with its record."""
    entry = entry_id(text)
    for number, model in enumerate(QUEUES):
        queue = f"default/{model}" if model else "default"
        result = prediction(text, REVISION).encode()
        api.redis.set(cache_key(queue, REVISION, entry), result, px=60_000)
        api.redis.set(f"{{millrace:2:{queue}}}:res:{entry}", result, px=60_000)
        place = f"{1_700_000_000_000 + number}:{entry}"
        record = {"id": entry, "place": place, "code": "poison", "revision": REVISION, "workers": "w"}
        api.redis.zadd(f"{{millrace:2:{queue}}}:refused", {place: 0})
        api.redis.hset(f"{{millrace:2:{queue}}}:refusals", entry, json.dumps({**record, "client": client}))
        api.redis.set(f"{{millrace:2:{queue}}}:refused:{entry}", text, px=60_000)
        api.redis.rpush(f"{{millrace:2:{queue}}}:dead", f"{entry} 3 w")


def of_others(api: AdminApi) -> list[bytes]:
    """Keys of other services on the same Redis, which have similar names."""
    for name in ("default2", "default-a", "other", "default2/@1"):
        api.redis.set(cache_key(name, REVISION, entry_id(TEXT)), "x")
        api.redis.set(f"{{millrace:2:{name}}}:res:{entry_id(TEXT)}", prediction(TEXT, REVISION).encode())
    return [
        *api.redis.scan_iter("*default2*"),
        *api.redis.scan_iter("*default-a*"),
        *api.redis.scan_iter("*other*"),
    ]


async def test_results_of_dropped_revisions_and_models_without_workers_were_left(api: AdminApi) -> None:
    """Only models and revisions that workers had served within the hour were asked."""
    kept_of_models(api, TEXT)
    others = of_others(api)
    removed = (await api.post("/forget", text=TEXT)).json()["removed"]
    count = len(QUEUES)
    assert {kind: removed[kind] for kind in ("cached", "results", "refused")} == {
        "cached": count,
        "results": count,
        "refused": 2 * count,
    }
    assert api.redis.exists(*others) == len(others) == 8
    api.redis.delete(*others)
    assert stays(api.redis, TEXT, entry_id(TEXT)) == []


@pytest.mark.parametrize(
    "form", ["default{}", "default{}:1", "{{millrace:2:default{}}}", "{{millrace:2:default{}:1}}"]
)
async def test_a_cache_is_searched_by_the_names_of_its_shard(api: AdminApi, form: str) -> None:
    """Beside the shards of a cluster they are hash tags."""
    results = CachedResults(api.redis, lambda model: form.format(f"/{model}" if model else ""))
    names = [form.format(suffix) for suffix in ("", "/@1", "/org/name@2", "2", "2/topics", "-a")]
    for name in names:
        for text in ("a", "b"):
            api.redis.set(cache_key(name, REVISION, entry_id(text)), "x")
    assert results.texts({entry_id("a")}) == 3
    assert results.revision(REVISION[:6]) == 3
    assert api.redis.dbsize() == 6


@pytest.mark.parametrize("what", [{"text": "a"}, {"revision": REVISION}], ids=["text", "revision"])
async def test_results_in_a_cache_with_its_own_redis_are_removed_too(start: Start, what: Any) -> None:
    api = await start(cache_url="redis://cache.test:6379")
    for text in ("a", "b"):
        cached(api, text, revision=REVISION if text == "a" else OTHER_REVISION)
    removed = (await api.post("/forget", **what)).json()["removed"]
    assert (removed["cached"], removed["results"]) == (1, 1)
    assert stays(api.redis, entry_id("a"), entry_id("b")) == [entry_id("b")]


@pytest.mark.parametrize("cache", ["beside the queue", "own"])
async def test_a_text_that_is_answered_while_the_cache_is_cleared_waits(
    start: Start, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    """Its result was cached behind the walk over the cache, and the answer said that nothing waited."""
    api = await start(**({"cache_url": "redis://cache.test:6379"} if cache == "own" else {}))
    api.worker().run([EnqueueAll([Enqueue([entry_id(TEXT)], [TEXT], [5], "a", "interactive", 10_000, 1000)])])
    api.worker().claim(10, 100, 100)
    texts = CachedResults.texts

    def clear(results: CachedResults, ids: Any) -> int:
        removed = texts(results, ids)
        api.worker().complete([(entry_id(TEXT), prediction(TEXT).encode())])
        cached(api, TEXT)
        return removed

    monkeypatch.setattr(CachedResults, "texts", clear)
    answer = (await api.post("/forget", text=TEXT)).json()
    assert answer["removed"]["waiting"] == 1


async def test_a_revision_is_gone_from_models_without_workers(api: AdminApi) -> None:
    kept_of_models(api, "another")
    others = of_others(api)
    # The id of a text may begin like a revision.
    decoy = cache_key("default/topics", OTHER_REVISION, REVISION + entry_id("a")[len(REVISION) :])
    api.redis.set(decoy, "x")
    removed = (await api.post("/forget", revision=REVISION[:8])).json()["removed"]
    assert (removed["cached"], removed["results"]) == (len(QUEUES), len(QUEUES))
    assert api.redis.exists(decoy, *others) == 1 + len(others)


async def test_a_client_is_gone_from_models_without_workers(api: AdminApi) -> None:
    kept_of_models(api, "another", "key:web")
    removed = (await api.post("/forget", client="key:web")).json()["removed"]
    assert removed["refused"] == len(QUEUES)
    assert stays(api.redis, "key:web") == []


def line(text: Any, **other: Any) -> bytes:
    body = {"model": "any", "input": text}
    request = {"custom_id": "one", "method": "POST", "url": "/v1/moderations", "body": body} | other
    return json.dumps(request).encode() + b"\n"


async def test_a_file_that_only_mentions_a_text_was_deleted(api: AdminApi) -> None:
    """With the text POST, all files were: it is the method of every line."""
    files = {
        "a": line("POST"),
        "b": line("x") + line(["POST"]),
        "c": line("x"),
        "d": line("x", custom_id="POST", metadata=["POST"]),
        "e": line(["x", ["POST"]]) + line({"POST": "POST"}) + b'["POST"]\n"POST"\nPOST\n[]\n\n',
    }
    for name, content in files.items():
        api.store.files.put(name * 32, [content], "someone", api.store.upload("x")._budget)
        api.store.files.complete(name * 32, "in.jsonl", (len(content), 1), "", 60)
    answer = await api.post("/forget", text="POST")
    assert answer.json()["removed"]["files"] == 2
    assert [name for name in files if api.store.files.record(name * 32)] == ["c", "d", "e"]


async def test_forgetting_read_each_blank_line_of_a_file(api: AdminApi) -> None:
    """A file of 64 MiB took minutes of processor time, and several times its size of memory."""
    blocks = [line("x"), *[b"\n" * 256 * 1024] * 16, line("POST")]
    stored = api.store.files.put("f" * 32, blocks, "someone", api.store.upload("x")._budget)
    api.store.files.complete("f" * 32, "in.jsonl", stored, "", 60)
    began = process_time()
    assert (await api.post("/forget", text="POST")).json()["removed"]["files"] == 1
    assert process_time() - began < 2


@pytest.mark.parametrize("what", ["text", "client", "revision"])
async def test_other_processes_hear_of_it_from_the_snapshot(api: AdminApi, what: str) -> None:
    wanted = {what: {"text": TEXT, "client": "key:web", "revision": REVISION}[what]}
    api.cache.keep(TEXT)
    (before,) = api.worker().run([Sweep("other", 3)])
    await api.post("/forget", **wanted)
    (after,) = api.worker().run([Sweep("other", 3)])
    assert after.forgotten == before.forgotten + 1
    assert 0 < api.redis.ttl(f"{P}:snapshot") <= SNAPSHOT_S
    api.redis.delete(f"{P}:snapshot")
    await api.post("/forget", **wanted)
    assert 0 < api.redis.ttl(f"{P}:snapshot") <= SNAPSHOT_S, "also where no process sweeps any more"


async def test_a_text_that_waits_is_reported(api: AdminApi) -> None:
    api.worker().run([EnqueueAll([Enqueue([entry_id(TEXT)], [TEXT], [5], "a", "interactive", 10_000, 1000)])])
    answer = (await api.post("/forget", text=TEXT)).json()
    assert (answer["keys"], answer["removed"]["waiting"]) == (0, 1)


async def test_what_processes_hold_was_not_counted_as_waiting(
    api: AdminApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored again after the answer that nothing waits. With several shards, each has the answers."""
    monkeypatch.setattr(Traces, "open_s", 60.0)
    questions: list[Question] = []

    def reply(command: Any) -> Any:
        if isinstance(command, AskQuestion):
            questions.append(command.question)
            assert api.redis.exists(f"{P}:res:{entry_id(TEXT)}"), "nothing is removed before"
            for process, held in (("one", 2), ("two", 1), ("one", 2)):
                answer = json.dumps({"process": process, "held": held})
                api.redis.rpush(f"{P}:answers:{command.question.token}", answer)
        return isinstance(command, AskQuestion) or []

    cached(api, TEXT)
    api.hub.replies = reply
    removed = (await api.post("/forget", text=TEXT)).json()["removed"]
    assert (removed["results"], removed["waiting"]) == (1, 3)
    (question,) = questions
    assert question[1:] == (HELD, (entry_id(TEXT),))
    assert EndQuestion(question.token) in api.hub.commands, "the id is not left in Redis"


async def test_processes_that_cannot_be_asked_may_hold_it(api: AdminApi) -> None:
    api.hub.replies = lambda command: not isinstance(command, AskQuestion) and []
    assert (await api.post("/forget", text=TEXT)).json()["removed"]["waiting"] == 1


@pytest.mark.parametrize("own", [{}, {"separate_clients": True, "api_keys": keys(web="one")}])
async def test_a_process_says_how_many_of_its_requests_have_a_text(start: Start, own: dict[str, Any]) -> None:
    hub = FakeHub(gate=asyncio.Event(), tenant="key:web" if own else "")
    api = await start(hub, **own)

    async def held() -> list[int]:
        """What it says to each question, when it looks at the snapshot twice."""
        hub.commands.clear()
        token = str(len(asked))
        asked.append(token)
        hub.snapshot = replace(hub.snapshot, question=Question(token, HELD, (entry_id(TEXT),)))
        for _ in range(2):
            await api.client.get("/metrics")
        return [json.loads(one.body)["held"] for one in hub.commands if isinstance(one, Answer)]

    asked: list[str] = []
    key = {"x-api-key": "one"}
    bodies = ["a"], ["b", TEXT, TEXT], [TEXT]
    requests = [
        asyncio.create_task(api.client.post("/predict", json={"text": body}, headers=key)) for body in bodies
    ]
    await until(lambda: len(hub.asked) == 3)
    assert await held() == [2]
    hub.gate.set()  # type: ignore[union-attr]
    assert {(await one).status_code for one in requests} == {200}
    assert await held() == []


@pytest.mark.parametrize("client", ["key:web", "192.0.2.7", "2001:db8::/64"])
async def test_a_client_is_gone_with_its_jobs(start: Start, client: str) -> None:
    api = await start(api_keys=keys(web="one", phone="two"))
    owner = client if client.startswith("key:") else ""
    for text in ("running", "ended"):
        found = job(api, f"{text} of it", client=client, owner=owner)
        if text == "ended":
            finish(api, found)
    # Nothing is left of its texts, nor of their size: it is found by its owner.
    cancelled = job(api, "cancelled", client=client, owner=owner, keep=False)
    assert api.store.cancel(cancelled) == "cancelled"
    other = job(api, "of another", client="key:phone", owner="key:phone")
    api.store.files.put("f" * 32, [b"a file of it"], account_of(client), api.store.upload("x")._budget)
    api.store.files.complete("f" * 32, "name.jsonl", (12, 1), owner, 60)
    refuse(api, "refused of it", client)
    today = f"{P}:usage:{datetime.now(UTC).date()}"
    api.redis.hset(today, mapping={"web texts": 1, "web errors": 2, "phone texts": 3})
    api.redis.hset(f"{P}:clients", "api-1", f'1 1 {{"{client}":{{}}}}')
    answer = (await api.post("/forget", client=client)).json()
    assert not api.redis.exists(f"{P}:clients"), "the clients of the last minute"
    assert api.redis.hgetall(today) == {b"phone texts": b"3"} | (
        {} if owner else {b"web texts": b"1", b"web errors": b"2"}
    )
    assert stays(api.redis, " of it", account_of(client), "name.jsonl", *([owner] if owner else [])) == []
    assert answer["removed"] == {"jobs": 2 + bool(owner), "files": 1, "refused": 1, "usage": int(bool(owner))}
    assert api.store.record(other) is not None
    assert answer["keys"] == (6 if owner else 4)


async def test_jobs_of_a_client_that_have_not_ended_leave_the_queue(api: AdminApi) -> None:
    waiting, ended = job(api, "waits"), job(api, "ended")
    finish(api, ended)
    left: list[str] = []
    deleted, _ = JobEraser(api.redis, "default", api.store, left.append).client("127.0.0.1")
    assert ({*deleted}, left) == ({waiting, ended}, [waiting])


async def test_a_revision_is_gone_with_its_ended_jobs(api: AdminApi) -> None:
    for number in range(3):
        cached(api, f"text {number}")
    cached(api, "newer", revision=OTHER_REVISION)
    old, new = job(api, "old"), job(api, "new")
    finish(api, old)
    finish(api, new, f"stub@{OTHER_REVISION[:12]}")
    answer = (await api.post("/forget", revision=REVISION[:12])).json()
    assert answer["removed"] == {"cached": 3, "results": 3, "jobs": 1}
    assert stays(api.redis, REVISION[:12]) == []
    assert api.store.record(new) is not None


@pytest.mark.parametrize("digits", [4, 11, 12, 13, 64])
async def test_jobs_of_a_revision_were_left_by_a_short_prefix(api: AdminApi, digits: int) -> None:
    """Jobs name a revision by twelve digits, and were found by no fewer."""
    finish(api, old := job(api, "old"))
    finish(api, new := job(api, "new"), f"stub@{OTHER_REVISION[:12]}")
    removed = (await api.post("/forget", revision=REVISION[:digits])).json()["removed"]
    assert removed["jobs"] == 1
    assert [api.store.record(one) is None for one in (old, new)] == [True, False]


async def test_jobs_that_a_revision_answered_in_part_were_left(api: AdminApi) -> None:
    """A job shows the newest of its models, and after a move others have answered its texts, too."""
    names = [f"org/name@1@{REVISION[:12]}", f"stub@{OTHER_REVISION[:12]}"]
    finish(api, moved := job(api, "one", "two"), *names)
    finish(api, back := job(api, "three", "four"), *reversed(names))
    removed = (await api.post("/forget", revision=REVISION)).json()["removed"]
    assert removed["jobs"] == 2
    assert [api.store.record(one) for one in (moved, back)] == [None, None]


async def test_texts_refused_in_jobs_of_a_client_without_a_key_were_left(api: AdminApi) -> None:
    """Their records name the job, because that of the job has no address."""
    own, other = job(api, "own", client="192.0.2.7"), job(api, "others", client="192.0.2.8")
    refuse(api, "refused in it", f"job:{own}")
    refuse(api, "refused in another", f"job:{other}")
    removed = (await api.post("/forget", client="192.0.2.7")).json()["removed"]
    assert (removed["jobs"], removed["refused"]) == (1, 1)
    assert stays(api.redis, "refused in it", "refused in another") == ["refused in another"]


HOSTILE: list[dict[str, Any]] = [
    {},
    {"text": "a", "client": "key:web"},
    {"texts": ["a"]},
    {"text": 7},
    {"text": "x" * 1_000_001},
    {"client": "*"},
    {"client": "key:web\r\nX: 1"},
    {"client": "key:" + "w" * 200},
    {"revision": "*"},
    {"revision": "abc"},
    {"revision": "a" * 12 + "[b]"},
    {"revision": "a" * 12 + "\n"},
    {"text": "a", "tenants": ["key:web", "?"]},
]


async def test_a_hostile_body_is_refused_and_changes_nothing(api: AdminApi) -> None:
    cached(api, "kept")
    for body in HOSTILE:
        answer = await api.post("/forget", **body)
        assert answer.status_code == 422, body
        assert answer.json()["detail"][0]["msg"]
    assert stays(api.redis, entry_id("kept"))
    assert not api.redis.exists(f"{P}:audit")


async def test_keys_are_scanned_in_slices(api: AdminApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command looks at more than a thousand keys."""
    for number in range(2500):
        api.redis.set(cache_key("default", REVISION, f"{number:064x}"), b"x", px=60_000)
    counts: list[int] = []
    scan = redis.Redis.scan

    def counting(self: Any, cursor: Any = 0, match: Any = None, count: Any = None, _type: Any = None) -> Any:
        counts.append(count)
        return scan(self, cursor, match, count, _type)

    monkeypatch.setattr(redis.Redis, "scan", counting)
    answer = (await api.post("/forget", revision=REVISION)).json()
    assert answer["removed"]["cached"] == 2500
    assert set(counts) == {1000}
    assert len(counts) <= 8
