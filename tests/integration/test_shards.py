"""A queue of several shards: hubs, queues, worker threads and stubs over several fake servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from batcher.core.commands import Command, Enqueue, EnqueueAll, Lend, NoteRefused
from batcher.core.keys import prefix
from batcher.errors import NoWorker, QueueUnavailable
from batcher.hub import hub as hub_module
from batcher.messages import Prediction, entry_id, fragment
from batcher.shards import shard_of
from model_store import Tokens
from model_store.stub import StubClassifier
from tests.fakes import Gated, heartbeat_queue
from tests.shards import Fleet, ask, check, texts_at, until


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet(3)
    yield made
    await made.close()


async def test_each_text_is_computed_at_its_shard_and_answers_come_in_order(fleet: Fleet) -> None:
    hub = await fleet.hub()
    for home in range(3):
        await fleet.worker(home)
    await fleet.ready(hub, 3)
    texts = [f"text {number}" for number in range(120)]
    await check(hub, *texts, *texts[:5])
    for number, client in enumerate(fleet.clients):
        name = f"t:{number}" if number else "t"
        kept = {key.decode().rpartition(":")[2] for key in client.keys(f"{prefix(name)}:res:*")}
        assert kept == {entry_id(text) for text in texts_at(number, 3, 200) if text in texts}
    assert fleet.leftovers() == []
    assert hub.counts.queued == 120


async def test_equal_texts_of_several_processes_are_computed_once(fleet: Fleet) -> None:
    hubs = [await fleet.hub() for _ in range(3)]
    await fleet.worker(1)
    for hub in hubs:
        await fleet.ready(hub)
    texts = [f"text {number}" for number in range(60)]
    await asyncio.gather(*(check(hub, *texts[at : at + 20]) for at in range(0, 60, 20) for hub in hubs))
    assert sum(fleet.batch_sizes) == 60


async def test_an_idle_worker_helps_the_shards_that_have_none(fleet: Fleet) -> None:
    """Two of the shards have no worker. No text waits for a sweep, which comes once a second."""
    hub = await fleet.hub()
    await fleet.worker(0)
    await fleet.ready(hub)
    now = asyncio.get_running_loop().time
    began = now()
    for text in texts_at(0, 3, 20):
        await check(hub, text)
    at_home_s, began = now() - began, now()
    for number in (1, 2):
        for text in texts_at(number, 3, 10):
            await check(hub, text)
    assert now() - began < 10.0 + 5 * at_home_s
    assert fleet.leftovers() == []
    assert hub.snapshot.workers == 1, "a guest counts at its home only"


@pytest.mark.parametrize(("idle", "asked"), [(0, [1, 1]), (-1, [2, 0])], ids=["one", "none"])
async def test_every_text_may_ask_for_help_while_a_worker_is_idle_anywhere(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, idle: int, asked: list[int]
) -> None:
    """A limit on asking that ignored this let texts wait for up to 0.1 s beside idle workers."""
    monkeypatch.setattr(hub_module, "ASK_EVERY_S", 3600.0)
    hub = await fleet.hub()
    lent: list[int] = []
    for number, one in enumerate(hub.parts):

        def run(command: Command[Any], at: int = number, run: Callable[..., Any] = one.pipeline.run) -> Any:
            if not isinstance(command, Lend):
                return run(command)
            assert (command.shard, command.oldest_ms) == (1, 7)
            lent.append(at)
            done = asyncio.get_running_loop().create_future()
            done.set_result(idle)
            return done

        monkeypatch.setattr(one.pipeline, "run", run)
    found = []
    for _ in range(2):
        hub._ask_for_help(1, 7)
        await asyncio.gather(*hub._asking)
        found.append(len(lent))
        lent.clear()
    assert found == asked


async def test_shards_with_idle_workers_are_asked_first(fleet: Fleet) -> None:
    hub = await fleet.hub()
    for turn in range(3):
        for likely in (0, 2):
            for number, one in enumerate(hub.parts):
                one.dispatcher.wake_ups.idle = 3 if number == likely else -1
            assert [hub.parts.index(one) for one in hub._helpers(1)] == [likely, 2 - likely], turn


async def test_shards_of_which_nothing_is_known_are_asked_in_turn(fleet: Fleet) -> None:
    """Workers of one of them may be older ones, which do not know the shard that needs help."""
    hub = await fleet.hub()
    for one in hub.parts:
        one.dispatcher.wake_ups.idle = -1
    first = {hub.parts.index(hub._helpers(1)[0]) for _ in range(6)}
    assert first == {0, 2}


async def test_a_shard_without_workers_does_not_starve_while_another_is_busy(fleet: Fleet) -> None:
    """Its texts are older than those that wait at the home of the only worker, so they come first."""
    older = texts_at(1, 3, 3)
    gate, waiting_at_home = threading.Event(), []
    classifier = StubClassifier(batch_ms=20, variant="signed")
    digests = {tokens.ids[0] for tokens in classifier.tokenize(older)}
    classify = classifier.classify

    def watched(batch: Sequence[Tokens]) -> list[list[float]]:
        gate.wait()
        if any(tokens.ids[0] in digests for tokens in batch):
            waiting_at_home.append(fleet.clients[0].llen(f"{prefix('t')}:q"))
        return classify(batch)

    classifier.classify = watched  # type: ignore[method-assign]
    hub = await fleet.hub()
    await fleet.worker(0, classifier, batch_texts=2)
    await fleet.ready(hub)
    first, *younger = texts_at(0, 3, 601)
    asked = [asyncio.create_task(ask(hub, first))]
    await until(lambda: len(fleet.batch_sizes) == 1, "a busy worker")
    answers = asyncio.create_task(check(hub, *older))
    await until(lambda: fleet.clients[1].llen(f"{prefix('t:1')}:q") == 3, "texts at another shard")
    await asyncio.sleep(0.3)
    asked.append(asyncio.create_task(ask(hub, *younger)))
    await until(lambda: fleet.clients[0].llen(f"{prefix('t')}:q") > 500, "a backlog at home")
    gate.set()
    await answers
    assert min(waiting_at_home) > 0
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_a_guest_keeps_the_leases_of_the_shard_that_it_helps(fleet: Fleet) -> None:
    hub = await fleet.hub()
    await fleet.worker(0, StubClassifier(batch_ms=1500, variant="signed"), lease_ms=400)
    await fleet.ready(hub)
    await check(hub, *texts_at(2, 3, 1))
    assert fleet.batch_sizes == [1]
    assert hub.counts.recovered == 0


async def test_a_shard_that_is_down_fails_its_own_texts_and_no_others(fleet: Fleet) -> None:
    hub = await fleet.hub()
    for home in range(3):
        await fleet.worker(home)
    await fleet.ready(hub, 3)
    fleet.servers[1].connected = False
    await until(lambda: not hub.shards_up[1], "the outage")
    assert hub.reachable
    with pytest.raises(QueueUnavailable):
        await ask(hub, *texts_at(1, 3, 1))
    with pytest.raises(QueueUnavailable):
        await ask(hub, *texts_at(1, 3, 1), *texts_at(0, 3, 1))
    for number in (0, 2):
        await check(hub, *texts_at(number, 3, 20))
    fleet.servers[1].connected = True
    await until(lambda: all(hub.shards_up), "its end")
    await check(hub, *(f"after {number}" for number in range(30)))
    assert fleet.leftovers() == []


async def test_a_process_that_starts_while_the_home_of_all_workers_is_down_counts_them(fleet: Fleet) -> None:
    earlier = await fleet.hub()
    for _ in range(2):
        await fleet.worker(1)
    await fleet.ready(earlier, 2)
    rate = earlier.snapshot.rate
    fleet.servers[1].connected = False
    later = await fleet.hub()
    await until(lambda: later.snapshot.workers == 2, "workers")
    assert later.snapshot.rate == pytest.approx(rate, abs=1)
    for number in (0, 2):
        await check(later, *texts_at(number, 3, 5))
    # The process that knew them before does not count them twice once it knows that their home is down.
    await until(lambda: any(part.snapshot.guests for part in earlier.parts), "the guests")
    await until(lambda: not earlier.shards_up[1], "the outage")
    swept = earlier.snapshot
    await until(lambda: earlier.snapshot is not swept, "a sweep")
    assert earlier.snapshot.workers == 2
    fleet.servers[1].connected = True
    for hub in (earlier, later):
        await until(
            lambda hub=hub: not any(part.snapshot.guests for part in hub.parts), "the guests to leave"
        )
        await until(lambda hub=hub: all(hub.shards_up) and hub.snapshot.workers == 2, "their return")


async def test_a_worker_whose_home_is_down_serves_the_others_and_returns(fleet: Fleet) -> None:
    hub = await fleet.hub()
    worker = await fleet.worker(1)
    await fleet.ready(hub)
    await check(hub, *texts_at(1, 3, 1))
    fleet.servers[1].connected = False
    await until(lambda: not hub.shards_up[1], "the outage")
    for number in (0, 2):
        await check(hub, *texts_at(number, 3, 20))
    fleet.servers[1].connected = True
    await until(lambda: all(hub.shards_up), "its end")
    await check(hub, *texts_at(1, 3, 20, "later"))
    await until(
        lambda: worker.exchange.here.outage.over and worker.exchange.here.idle,
        "the worker to be idle at home",
    )


async def test_a_request_has_priority_only_if_it_says_so(fleet: Fleet) -> None:
    hub = await fleet.hub()
    gated = Gated()
    await fleet.worker(0, gated)
    await fleet.ready(hub)
    (text,) = texts_at(0, 3, 1)
    pending = hub.parts[0].dispatcher.pending
    asking = asyncio.create_task(hub.classify([entry_id(text)], [text], budget_s=60))
    await until(lambda: pending, "the request")
    assert not pending[entry_id(text)].first
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gated.gate.set()


async def test_without_any_worker_requests_are_refused(fleet: Fleet) -> None:
    hub = await fleet.hub()
    with pytest.raises(NoWorker):
        await ask(hub, "text")


async def test_the_result_of_a_former_model_does_not_answer_once_its_last_worker_has_ended(
    fleet: Fleet,
) -> None:
    """No worker of its successor has worked at the shard, so its record is still there."""
    (text,) = texts_at(1, 3, 1)
    stored = Prediction(fragment(("N", "P"), (0.25, 0.75)), "former", 3).encode()
    former = heartbeat_queue(
        fleet.clients[1], "t:1", "former", lease_ms=2000, max_attempts=3, result_ms=60_000
    )
    await fleet.worker(0)
    hub = await fleet.hub()
    await fleet.ready(hub)
    former.heartbeat(
        (), {"revision": "former"}, {"name": "m", "revision": "former"}, ttl_ms=60_000, takeover=True
    )
    enqueue = Enqueue([entry_id(text)], [text], [10], "a", "interactive", 60_000, 1000)
    former.run([EnqueueAll([enqueue])])
    former.claim(10, 100, 100)
    former.complete([(entry_id(text), stored)])
    (outcome,) = await ask(hub, text)
    assert outcome.revision == "former"
    former.retire()
    await check(hub, text)
    assert sum(fleet.batch_sizes) == 1


async def test_a_worker_that_stops_leaves_no_record_at_any_shard(fleet: Fleet) -> None:
    """Also where it has only announced its model: its revision counts as served while it is there."""
    worker = await fleet.worker(0)
    keys = [f"{prefix(name)}:workers" for name in ("t", "t:1", "t:2")]

    def known() -> list[int]:
        return [client.zcard(key) for client, key in zip(fleet.clients, keys, strict=True)]

    await until(lambda: known() == [1, 1, 1], "its start")
    worker.stop()
    await until(lambda: known() == [0, 0, 0], "its end")


async def test_texts_for_a_wanted_revision_go_where_its_workers_live(fleet: Fleet) -> None:
    """Each shard was answered by the worker that lives there, and a request for one revision never ended."""
    models = {home: StubClassifier(variant=f"signed-{home}") for home in (1, 2)}
    for home, model in models.items():
        await fleet.worker(home, model)
    hub = await fleet.hub()
    revisions = {home: model.info.revision for home, model in models.items()}
    known = [(), (revisions[1],), (revisions[2],)]
    await until(lambda: [part.snapshot.revisions for part in hub.parts] == known, "both workers")
    texts = [text for shard in range(3) for text in texts_at(shard, 3, 4)]
    for revision in revisions.values():
        assert {outcome.revision for outcome in await ask(hub, *texts, only=revision)} == {revision}
    assert len(await ask(hub, *texts, only="gone")) == len(texts), "then any worker may have them"


async def test_the_record_of_a_refused_text_gets_its_client_at_whichever_shard_it_is(fleet: Fleet) -> None:
    """Texts for one revision are not always asked for at the shard of their ids."""
    hub = await fleet.hub()
    (text,) = texts_at(0, 3, 1)
    entry, key = entry_id(text), f"{prefix('t:2')}:refusals"
    fleet.clients[2].hset(key, entry, '{"code": "inference_failed"}')
    hub.console.send_to_all(NoteRefused(entry, "key:web"))
    await until(lambda: b"key:web" in (fleet.clients[2].hget(key, entry) or b""), "its client")
    assert fleet.clients[0].keys("*:refus*") == [], "there is no record elsewhere"


async def test_a_worker_that_follows_another_at_another_shard_leaves_no_gap(fleet: Fleet) -> None:
    """Shards are read one after the other: the first without the new worker, the next without the old."""
    hub = fleet.new_hub()
    old, new = (
        heartbeat_queue(client, name, name, lease_ms=2000, max_attempts=3, result_ms=60_000)
        for client, name in ((fleet.clients[1], "t:1"), (fleet.clients[0], "t"))
    )
    record, model = {"revision": "r", "rate": 10}, {"name": "m", "revision": "r"}

    async def counts(*shards: int) -> list[int]:
        found = []
        for shard in shards:
            await hub.parts[shard].sweep()
            found.append(hub.snapshot.workers)
        return found

    assert await counts(0, 1, 2) == [0, 0, 0]
    old.heartbeat((), record, model, ttl_ms=60_000)
    assert await counts(0, 1, 2) == [0, 1, 1]
    new.heartbeat((), record, model, ttl_ms=60_000)
    old.retire()
    assert await counts(1, 2, 0) == [1, 1, 1]
    new.retire()
    assert await counts(0, 1, 0, 2, 1) == [1, 1, 1, 0, 0], "each shard has been read without any"
    await hub.stop()


async def test_a_snapshot_is_as_old_as_its_question(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = fleet.new_hub()
    times = [100.0]
    monkeypatch.setattr(hub_module, "monotonic", lambda: times[-1])
    run = hub.parts[1].pipeline.run

    def stood_still(command: Command[Any]) -> Any:
        times.append(200.0)
        return run(command)

    monkeypatch.setattr(hub.parts[1].pipeline, "run", stood_still)
    await hub.parts[1].sweep()
    assert (hub.asked_at, times[-1]) == (100.0, 200.0)
    await hub.stop()


async def test_results_are_cached_beside_their_shard(fleet: Fleet) -> None:
    hub = await fleet.hub(cache_here=True)
    await fleet.worker(2)
    await fleet.ready(hub)
    texts = [f"text {number}" for number in range(30)]
    computed = await check(hub, *texts)
    again = await fleet.hub(cache_here=True)
    await fleet.ready(again)
    for client in fleet.clients:
        for key in client.keys("*:res:*"):
            client.delete(key)
    revision = computed[0].revision
    assert again.looks
    assert all(outcome.cached for outcome in await check(again, *texts, revision=revision))
    assert sum(fleet.batch_sizes) == 30


async def test_from_n_to_m_shards_nothing_is_lost_while_both_run_side_by_side(fleet: Fleet) -> None:
    """Workers and API processes with two shards, and others with three: it may become more or fewer."""
    await fleet.worker(0, shards=2)
    await fleet.worker(2)
    two, three = await fleet.hub(2), await fleet.hub(3)
    await until(lambda: two.snapshot.workers == 1 and all(two.shards_up), "the worker of two shards")
    await fleet.ready(three, 2)
    texts = [f"text {number}" for number in range(90)]
    await asyncio.gather(
        *(check(hub, *texts[at : at + 10]) for at in range(0, 90, 10) for hub in (two, three))
    )
    moved = [text for text in texts if shard_of(entry_id(text), 2) != shard_of(entry_id(text), 3)]
    assert 90 <= sum(fleet.batch_sizes) <= 90 + len(moved), "only a text that moves may be computed twice"
    assert fleet.leftovers() == []
