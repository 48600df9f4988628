"""The service without HTTP: hub, queue, worker thread and stub, on fakeredis and on a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
import redis.asyncio

from batcher.connection.pipeline import PendingCommand, Pipeline
from batcher.core.commands import Command, EnqueueAll
from batcher.core.keys import cache_key
from batcher.errors import (
    BudgetExceeded,
    EntryFailed,
    NoWorker,
    QueueFull,
    QueueUnavailable,
)
from batcher.hub import hub as hub_module
from batcher.hub.dispatcher import Admission
from batcher.hub.hub import HintList, ReplyHub
from batcher.hub.shared_cache import SharedCache
from batcher.messages import Failure, Prediction, entry_id
from batcher.settings import WorkerSettings
from batcher.worker import exchange
from batcher.worker.cache_writer import remember
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.inference import FAILED_BATCHES, PROBES
from batcher.worker.loop import Worker
from batcher.worker.stats import BatchReport
from model_store.stub import StubClassifier
from tests.fakes import Gated, counted, heartbeat_queue, shard_hub
from tests.servers import as_user, leftovers
from tests.threads import run_worker

PREFIX = "{millrace:2:t}"


class HubAndWorkers:
    """Makes hubs and workers over one Redis, and ends them."""

    def __init__(self, clients: Callable[[], tuple[redis.asyncio.Redis, redis.Redis]]) -> None:
        self._clients = clients
        self._stack = contextlib.AsyncExitStack()
        self.batches: list[BatchReport] = []
        self.batch_sizes: list[int] = []
        self.client = clients()[1]

    async def hub(self, *, linger_s: float = 0.0, cache_here: bool = False, **caps: int) -> ReplyHub:
        caps = {"cost": caps.get("interactive", 200_000), "bulk_cost": caps.get("bulk", 200_000)}
        clients = [self._clients()[0] for _ in range(2)]
        part = shard_hub(*clients, **caps, linger_s=linger_s, cache_here=cache_here)
        hub = ReplyHub([part])
        await hub.start()
        self._stack.push_async_callback(hub.stop)
        return hub

    async def worker(self, classifier: Any = None, **settings: Any) -> Worker:
        chosen = WorkerSettings(**settings)

        def queue() -> HeartbeatQueue:
            return heartbeat_queue(
                self._clients()[1],
                "t",
                f"w{id(chosen)}",
                lease_ms=chosen.lease_ms,
                max_attempts=chosen.max_attempts,
                result_ms=60_000,
            )

        cache = self._clients()[1]
        worker = Worker(
            counted(classifier or StubClassifier(), self.batch_sizes),
            exchange.Queues(queue(), queue(), queue()),
            chosen,
            lambda results, claimed_at: remember(cache, "t", 3600.0, results),
            self.batches.append,
        )
        run_worker(worker, self._stack)
        return worker

    async def ready(self, hub: ReplyHub, workers: int = 1) -> None:
        async with asyncio.timeout(60):
            while hub.snapshot.workers < workers or not hub.reachable:
                await hub.parts[0].sweep()
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self._stack.aclose()

    def leftovers(self) -> list[bytes]:
        return leftovers(self.client)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.redis)])
async def service(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[HubAndWorkers]:
    opened: list[Any] = []

    def fake() -> tuple[Any, Any]:
        # Scripts run in this process, which takes long beside other work.
        patient = fakeredis.FakeAsyncRedis(server=server, socket_timeout=60)
        pair = patient, fakeredis.FakeRedis(server=server)
        opened.extend(pair)
        return pair

    def real() -> tuple[Any, Any]:
        urls = as_user(url, "api"), as_user(url, "worker")
        pair = redis.asyncio.Redis.from_url(urls[0], protocol=2), redis.Redis.from_url(urls[1], protocol=2)
        opened.extend(pair)
        return pair

    if request.param == "fake":
        server = fakeredis.FakeServer(version=(7,))
        made = HubAndWorkers(fake)
    else:
        url = request.getfixturevalue("redis_server").url
        made = HubAndWorkers(real)
        made.client = redis.Redis.from_url(url, protocol=2)
        opened.append(made.client)
    yield made
    await made.close()
    for client in opened:
        if hasattr(client, "aclose"):
            await client.aclose()
        else:
            client.close()


async def ask(hub: ReplyHub, *texts: str, budget_s: float = 60.0, **more: Any) -> list[Any]:
    return await hub.classify([entry_id(text) for text in texts], texts, budget_s=budget_s, **more)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(6000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")


async def test_every_text_gets_the_models_answer_in_input_order(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(), await service.worker()
    await service.ready(hub)
    texts = [f"text number {i} " + "word " * (i % 40) for i in range(300)]
    outcomes = await ask(hub, *texts, *texts[:5])
    stub = StubClassifier()
    expected = [round(row[1], 6) for row in stub.classify(stub.tokenize(texts))]
    got = [float(o.fragment.split(b'"score":')[2].rstrip(b"}]")) for o in outcomes[:300]]
    assert got == expected
    assert [o.fragment for o in outcomes[300:]] == [o.fragment for o in outcomes[:5]]
    assert all(o.tokens == len(t) for o, t in zip(outcomes, stub.tokenize(texts), strict=False))
    assert service.leftovers() == []


async def test_what_was_computed_is_in_the_shared_cache(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(), await service.worker()
    await service.ready(hub)
    (outcome,) = await ask(hub, "remember me")
    cache = SharedCache(Pipeline(redis_of(service)), "t")
    await until(lambda: bool(service.client.keys("millrace:cache:*")))
    found = await cache.get(outcome.revision, [entry_id("remember me"), "x" * 64])
    assert found[0].fragment == outcome.fragment
    assert found[1] is None
    assert (await cache.get("another revision", [entry_id("remember me")])) == [None]
    await cache.close()
    (key,) = service.client.keys("millrace:cache:*")
    assert 3200 < service.client.ttl(key) <= 3960


async def test_on_its_way_to_the_queue_a_text_meets_its_long_lived_result(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(cache_here=True), await service.worker()
    assert not hub.looks, "no worker could compute what it does not find"
    await service.ready(hub)
    assert hub.looks
    (first,) = await ask(hub, "remember me")
    await until(lambda: service.client.exists(cache_key("t", first.revision, entry_id("remember me"))))
    service.client.delete(f"{{millrace:2:t}}:res:{entry_id('remember me')}")
    found, new = await ask(hub, "remember me", "new", revision=first.revision)
    assert (found.cached, new.cached) == (True, False)
    assert found.fragment == first.fragment
    assert service.batch_sizes == [1, 1]
    await until(lambda: len(service.batches) == 2)
    assert [entry.text for entry in service.batches[1].entries] == ["new"]


async def test_a_long_lived_result_that_cannot_be_read_is_computed_anew(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(cache_here=True), await service.worker()
    await service.ready(hub)
    service.client.set(cache_key("t", "A", entry_id("spoilt")), b"what is this?")
    service.client.set(cache_key("t", "A", entry_id("a failure")), Failure("poison", "no").encode())
    outcomes = await ask(hub, "spoilt", "a failure", revision="A")
    assert [outcome.cached for outcome in outcomes] == [False, False]
    assert hub.counts.malformed == 2
    assert hub.looks


async def test_a_redis_whose_scripts_may_not_read_the_cache_is_asked_again_without(
    service: HubAndWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys may be forbidden, or on another server."""
    hub, _ = await service.hub(cache_here=True), await service.worker()
    await service.ready(hub)
    run = Pipeline.run

    def refusing(pipeline: Pipeline, command: Command[Any]) -> asyncio.Future[Any]:
        if isinstance(command, EnqueueAll) and command.requests[0].cache:
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(redis.exceptions.ResponseError("a non local key"))
            return refused
        return run(pipeline, command)

    monkeypatch.setattr(Pipeline, "run", refusing)
    outcomes = await ask(hub, "x", "y", revision="A")
    assert [type(outcome) for outcome in outcomes] == [Prediction, Prediction]
    assert not hub.looks
    assert hub.counts.shed == 0


def redis_of(service: HubAndWorkers) -> Any:
    return service._clients()[0]


async def test_a_thousand_identical_requests_cost_one_inference(service: HubAndWorkers) -> None:
    one, two = await service.hub(), await service.hub()
    await service.worker(StubClassifier(batch_ms=50))
    await service.ready(one)
    await service.ready(two)
    asked = [ask(hub, "the same") for hub in (one, two) for _ in range(500)]
    outcomes = [outcome for (outcome,) in await asyncio.gather(*asked)]
    assert len({outcome.fragment for outcome in outcomes}) == 1
    assert sum(service.batch_sizes) == 1


async def test_entries_that_wait_share_a_batch(service: HubAndWorkers) -> None:
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier)
    await service.ready(hub)
    asked = [asyncio.create_task(ask(hub, "blocks the worker"))]
    await until(lambda: hub.counts.queued == 1)
    asked += [asyncio.create_task(ask(hub, f"text {i}")) for i in range(50)]
    await until(lambda: hub.counts.queued == 51)
    classifier.gate.set()
    await asyncio.gather(*asked)
    assert sum(service.batch_sizes) == 51
    assert len(service.batch_sizes) <= 6


async def test_finding_06_a_batch_is_reported_with_the_reason_of_its_own_claim(
    service: HubAndWorkers,
) -> None:
    """The claim that is made beside a batch gave its reason to that batch."""
    hub, _ = await service.hub(), await service.worker(StubClassifier(batch_ms=100), batch_texts=1)
    await service.ready(hub)
    await ask(hub, "two others wait", "one other waits", "the last one")
    await until(lambda: len(service.batches) == 3)
    assert [batch.reason for batch in service.batches] == ["full", "full", "idle"]


async def test_one_bad_text_fails_alone(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(), await service.worker(StubClassifier(batch_ms=5))
    await service.worker()
    await service.ready(hub, 2)
    outcomes = await ask(hub, *(f"good {i}" for i in range(20)), "bad \0raise", "good too")
    assert [type(outcome) for outcome in outcomes] == [Prediction] * 20 + [EntryFailed, Prediction]
    assert service.leftovers() == []


class Sick:
    """A classifier that goes wrong while `sick`: in the rows of a batch, or in the tokens of texts."""

    def __init__(
        self, wrong_rows: Callable[[Any], Any] = list, wrong_tokens: Callable[[Any], Any] = list
    ) -> None:
        self._stub, self.sick = StubClassifier(), False
        self._wrong_rows, self._wrong_tokens = wrong_rows, wrong_tokens
        self.info, self.close = self._stub.info, self._stub.close

    def tokenize(self, texts: Sequence[str]) -> Any:
        tokens = self._stub.tokenize(texts)
        return self._wrong_tokens(tokens) if self.sick else tokens

    def classify(self, batch: Any) -> Any:
        rows = self._stub.classify(batch)
        return self._wrong_rows(rows) if self.sick else rows


class Picky(StubClassifier):
    """It batch_sizes its self-test and fails on all other texts."""

    failed = 0

    def classify(self, batch: Any) -> Any:
        if [len(tokens) for tokens in batch] != [len(tokens) for tokens in self.tokenize(PROBES)]:
            self.failed += 1
            raise RuntimeError("a shape that this engine cannot run")
        return super().classify(batch)


def out_of_order(made: Any) -> Any:
    raise RuntimeError("the device is gone")


@pytest.mark.parametrize(
    "sick",
    [
        Sick(out_of_order),
        Sick(lambda rows: rows[:-1]),
        Sick(lambda rows: [[float("nan"), 1.0]] * len(rows)),
        Sick(list, out_of_order),
        Sick(list, lambda tokens: tokens[:-1]),
    ],
    ids=["raises", "a row too few", "no number", "tokenizer raises", "a text too few"],
)
async def test_finding_05_a_worker_with_a_broken_engine_fails_no_text_and_ends(
    service: HubAndWorkers, sick: Sick
) -> None:
    """Failing is faster than computing: such a worker ended most of what came with 500."""
    sick.sick = False
    hub, broken = await service.hub(), await service.worker(sick)
    await service.ready(hub)
    assert isinstance((await ask(hub, "while it is well"))[0], Prediction)
    sick.sick = True
    asked = [asyncio.create_task(ask(hub, f"text {i}", f"more {i}")) for i in range(10)]
    await until(lambda: broken.broken)
    await service.worker()
    outcomes = [outcome for pair in await asyncio.gather(*asked) for outcome in pair]
    assert [type(outcome) for outcome in outcomes] == [Prediction] * 20
    assert broken.state == "stopping"
    assert service.leftovers() == []
    assert not service.client.exists("{millrace:2:t}:dead")


async def test_finding_05_a_bad_text_fails_at_two_workers_and_ends_neither(service: HubAndWorkers) -> None:
    hub, workers = await service.hub(), [await service.worker(), await service.worker()]
    await service.ready(hub, 2)
    for number in range(4):
        (outcome,) = await ask(hub, f"\0raise {number}")
        assert isinstance(outcome, EntryFailed)
        assert isinstance((await ask(hub, f"a good one {number}"))[0], Prediction)
    assert not any(worker.broken for worker in workers)
    assert service.leftovers() == []


async def test_finding_05_at_one_worker_alone_a_text_fails_when_its_budget_ends(
    service: HubAndWorkers,
) -> None:
    """A try that is due just before the end may come too late on a busy machine: then it is asked again."""
    hub, worker = await service.hub(), await service.worker()
    await service.ready(hub)
    others = 0
    for attempt in range(3):
        asked = asyncio.create_task(ask(hub, f"\0raise {attempt}", budget_s=5))
        while not asked.done():
            assert isinstance((await ask(hub, f"a good one {others}"))[0], Prediction)
            others += 1
        if not isinstance(asked.exception(), BudgetExceeded):
            break
    assert isinstance((await asked)[0], EntryFailed)
    assert others
    assert not worker.broken
    assert service.leftovers() == []


async def test_finding_05_a_worker_on_which_batch_after_batch_fails_ends_and_fails_no_text(
    service: HubAndWorkers, caplog: pytest.LogCaptureFixture
) -> None:
    """Its self-test batch_sizes: only the texts of others go wrong."""
    classifier = Picky()
    hub, picky = await service.hub(), await service.worker(classifier, batch_texts=2)
    await service.ready(hub)
    asked = asyncio.create_task(ask(hub, *(f"text {i}" for i in range(40))))
    await until(lambda: picky.state == "stopping")
    assert picky.broken
    assert classifier.failed >= FAILED_BATCHES
    assert len([one for one in caplog.records if getattr(one, "action", "") == "worker.broken"]) == 1
    await service.worker()
    assert [type(outcome) for outcome in await asked] == [Prediction] * 40
    assert service.leftovers() == []


async def test_finding_04_a_late_hint_of_an_old_failure_does_not_answer_a_later_caller(
    service: HubAndWorkers,
) -> None:
    """As when the connection for hints was lost: the caller gave up, and the hint stayed in its list."""
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier)
    await service.ready(hub)
    asked = asyncio.create_task(ask(hub, "asked again"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") == 1)
    late = entry_id("asked again").encode() + b"\n" + Failure("inference_failed", "earlier").encode()
    service.client.rpush(f"{PREFIX}:reply:{hub.parts[0].api}", late)
    await until(lambda: hub.counts.hinted == 1)
    await asyncio.sleep(0.1)
    classifier.gate.set()
    assert [type(outcome) for outcome in await asked] == [Prediction]


async def test_a_budget_that_ends_is_one_callers_alone(service: HubAndWorkers) -> None:
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier)
    await service.ready(hub)
    blocker = asyncio.create_task(ask(hub, "blocks the worker"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") > 0)
    patient = asyncio.create_task(ask(hub, "shared text", budget_s=60))
    with pytest.raises(BudgetExceeded):
        await ask(hub, "shared text", budget_s=0.05)
    classifier.gate.set()
    assert isinstance((await patient)[0], Prediction)
    await blocker


async def test_a_cancelled_request_takes_its_entry_along(service: HubAndWorkers) -> None:
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier, batch_tokens=4)
    await service.ready(hub)
    blocker = asyncio.create_task(ask(hub, "blocks the worker"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") == 1)
    gone = asyncio.create_task(ask(hub, "no client waits for me"))
    stays = asyncio.create_task(ask(hub, "a client waits for me"))
    await until(lambda: hub.counts.queued == 3)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await until(lambda: hub.counts.cancelled == 1)
    classifier.gate.set()
    await asyncio.gather(blocker, stays)
    assert sum(service.batch_sizes) == 2
    assert hub.waiting == 0
    assert service.leftovers() == []


@pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}"])
async def test_finding_15_what_shares_a_round_trip_is_bounded_in_bytes(
    service: HubAndWorkers, monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    """512 requests of 2 MiB shared one. It took over a second, and Redis counted as lost for all of them."""
    hub = await service.hub(bulk=10**9)
    await service.worker(batch_texts=1)
    await service.ready(hub)
    pack, sent = Pipeline._pack, []

    def packing(pipeline: Pipeline, exchange: PendingCommand) -> bytes:
        packed = pack(pipeline, exchange)
        if isinstance(exchange.command, EnqueueAll):
            sent.append((pipeline._sent_bytes, len(packed)))
        return packed

    monkeypatch.setattr(Pipeline, "_pack", packing)
    long = letter * (4000 // len(letter.encode()))
    asked = [
        asyncio.create_task(ask(hub, *(f"{n} {i} {long}" for i in range(50)), lane="bulk")) for n in range(40)
    ]
    small = [asyncio.create_task(ask(hub, f"small {n}", lane="bulk")) for n in range(40)]
    await until(lambda: hub.counts.queued == 40 * 50 + 40)
    assert 40 < len(sent) < 80, "long requests have a command each"
    assert max(under_way for under_way, _ in sent) < 2 << 20, "more waits until a reply has arrived"
    assert sum(size for _, size in sent) > 3 * (2 << 20)
    assert hub.counts.round_trips < 20, "they do share round trips"
    assert hub.reachable
    for task in (*asked, *small):
        task.cancel()
    await asyncio.gather(*asked, *small, return_exceptions=True)


async def test_finding_15_an_ask_does_not_overtake_the_cancel_of_the_same_text(
    service: HubAndWorkers,
) -> None:
    """They travelled over two connections. The cancel came last, and took the new asker's entry along."""
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier, batch_tokens=4)
    await service.ready(hub)
    blocker = asyncio.create_task(ask(hub, "blocks the worker"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") == 1)
    gone = asyncio.create_task(ask(hub, "asked twice"))
    await until(lambda: hub.counts.queued == 2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    await asyncio.sleep(0)  # the cancel is sent, and Redis does not know its script yet
    again = asyncio.create_task(ask(hub, "asked twice", "and another"))
    await until(lambda: hub.counts.cancelled == 1 and hub.counts.queued + hub.counts.joined == 4)
    assert service.client.exists(f"{PREFIX}:entry:{entry_id('asked twice')}")
    classifier.gate.set()
    await asyncio.gather(blocker, again)
    assert hub.counts.asked_again == 0
    assert service.leftovers() == []


async def test_a_hub_that_lingers_collects_many_answers_at_once(
    service: HubAndWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    async def hints(hints: HintList) -> list[tuple[str, bytes]]:
        answers = await pop(hints)
        read.append(len(answers))
        return answers

    pop = HintList.pop
    monkeypatch.setattr(HintList, "pop", hints)
    # The slow poll must not find the results first.
    monkeypatch.setattr("batcher.hub.dispatcher.LOOK_S", 30.0)
    hub, _ = await service.hub(linger_s=1.0), await service.worker(StubClassifier(batch_ms=2), batch_texts=1)
    await service.ready(hub)
    outcomes = await ask(hub, *(f"text {number}" for number in range(40)), lane="bulk")
    assert all(isinstance(outcome, Prediction) for outcome in outcomes)
    assert max(read) > 5


async def test_a_lost_hint_costs_a_poll_not_the_answer(service: HubAndWorkers) -> None:
    hub, _ = await service.hub(), await service.worker(StubClassifier(batch_ms=100))
    await service.ready(hub)
    asking = asyncio.create_task(ask(hub, "the hint gets lost"))
    stolen: list[bytes] = []
    async with asyncio.timeout(60):
        while not asking.done():
            stolen += service.client.lpop(f"{PREFIX}:reply:{hub.parts[0].api}", 10) or []
            await asyncio.sleep(0)
    assert isinstance((await asking)[0], Prediction)


async def test_what_redis_lost_is_asked_again(service: HubAndWorkers) -> None:
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier)
    await service.ready(hub)
    blocker = asyncio.create_task(ask(hub, "blocks the worker"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") > 0)
    waiting = asyncio.create_task(ask(hub, "lost on the way"))
    entry = f"{PREFIX}:entry:{entry_id('lost on the way')}"
    await until(lambda: service.client.exists(entry) > 0)
    service.client.delete(f"{PREFIX}:q", entry)
    await until(lambda: hub.counts.asked_again >= 1)
    classifier.gate.set()
    assert isinstance((await waiting)[0], Prediction)
    await blocker


def test_a_warm_up_learns_what_a_pass_costs_and_meets_a_model_that_fails() -> None:
    queue: Any = SimpleNamespace()
    classifier = Sick(lambda rows: rows[:-1])
    worker = Worker(classifier, exchange.Queues(queue, queue, queue), WorkerSettings(), lambda *results: None)
    worker.warm_up()
    assert worker.budget() == worker.inference.cost.best_tokens()
    classifier.sick = True
    with pytest.raises(ValueError, match="0 rows of scores for 1 texts"):
        worker.warm_up()


def test_batches_on_a_card_are_larger_and_warmed_up() -> None:
    queue: Any = SimpleNamespace()
    classifier = StubClassifier()
    classifier.info = replace(classifier.info, device="NVIDIA H200", full_tokens=4096)
    sizes: list[int] = []
    classify = classifier.classify
    classifier.classify = lambda batch: sizes.append(sum(map(len, batch))) or classify(batch)  # type: ignore[method-assign, func-returns-value]
    worker = Worker(classifier, exchange.Queues(queue, queue, queue), WorkerSettings(), lambda *results: None)
    worker.warm_up()
    assert 2048 <= worker.budget() <= 4096
    assert max(sizes) > 4096


async def test_no_worker_is_said_at_once(service: HubAndWorkers) -> None:
    hub = await service.hub()
    with pytest.raises(NoWorker):
        await ask(hub, "anyone?")


async def test_a_hub_that_stops_refuses_requests_at_once(service: HubAndWorkers) -> None:
    hub = await service.hub()
    await service.worker()
    await service.ready(hub)
    stopping = asyncio.ensure_future(hub.stop())
    await asyncio.sleep(0)
    with pytest.raises(QueueUnavailable):
        hub.parts[0].admit("interactive", 1.0)
    await stopping


async def test_a_full_lane_sheds_and_says_when_to_come_back(service: HubAndWorkers) -> None:
    hub = await service.hub(interactive=20)
    await service.worker(StubClassifier(batch_ms=200), batch_texts=1)
    await service.ready(hub)
    asked = [asyncio.create_task(ask(hub, f"text {i}")) for i in range(30)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    shed = [outcome for outcome in outcomes if isinstance(outcome, QueueFull)]
    answered = [outcome for outcome in outcomes if isinstance(outcome, list)]
    assert len(shed) + len(answered) == 30
    assert answered
    assert shed
    assert all(error.retry_after_s is not None and error.retry_after_s >= 1 for error in shed)
    assert service.leftovers() == []


@pytest.mark.parametrize("order", [("admitted", "refused"), ("refused", "admitted")])
async def test_finding_35_a_refused_request_leaves_a_shared_text_to_the_others(
    service: HubAndWorkers, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...]
) -> None:
    """The queue is too full for what a short budget needs, and not for a long one.

    The refusal reached all requests with a text of the refused one. Found by `python -m tests.simulation`.
    """
    hub, classifier = await service.hub(), Gated()
    await service.worker(classifier, batch_texts=1)
    await service.ready(hub)
    blockers = [asyncio.create_task(ask(hub, f"blocker {i}")) for i in range(5)]
    await until(lambda: service.client.llen(f"{PREFIX}:q") > 1)
    monkeypatch.setattr(Admission, "cap", lambda self, lane, first, budget_s: 100_000 if budget_s > 9 else 1)
    budgets = {"admitted": 20.0, "refused": 8.0}
    asked = {
        kind: asyncio.create_task(ask(hub, "shared", f"only in {kind}", budget_s=budgets[kind]))
        for kind in order
    }
    try:
        with pytest.raises(QueueFull):
            await asyncio.wait_for(asked["refused"], 5)
    finally:
        classifier.gate.set()
    assert len(await asked["admitted"]) == 2
    await asyncio.gather(*blockers)


async def test_a_stopping_worker_finishes_what_it_runs_and_gives_back_the_rest(
    service: HubAndWorkers,
) -> None:
    hub = await service.hub()
    first = await service.worker(StubClassifier(batch_ms=150), batch_tokens=8)
    await service.ready(hub)
    asked = [asyncio.create_task(ask(hub, f"text {i}")) for i in range(20)]
    await asyncio.sleep(0.2)
    first.stop()
    second = await service.worker(StubClassifier())
    outcomes = await asyncio.gather(*asked)
    assert all(isinstance(outcome, Prediction) for (outcome,) in outcomes)
    assert second.heartbeat.alive
    assert sum(service.batch_sizes) == 20, "nothing was computed twice"
    assert service.leftovers() == []


async def test_stopping_the_hub_answers_who_waits(service: HubAndWorkers) -> None:
    classifier = Gated()
    hub, _ = await service.hub(), await service.worker(classifier)
    await service.ready(hub)
    asking = asyncio.create_task(ask(hub, "still waiting"))
    await until(lambda: service.client.zcard(f"{PREFIX}:inflight") > 0)
    await hub.stop()
    classifier.gate.set()
    with pytest.raises(QueueUnavailable):
        await asking


async def test_foreign_bytes_in_every_place_end_no_loop(service: HubAndWorkers) -> None:
    hub = await service.hub()
    await service.worker()
    await service.ready(hub)
    prefix = PREFIX
    text = "answered by a stranger"
    service.client.set(f"{prefix}:res:{entry_id(text)}", b"\xff\xfe not ours")
    service.client.rpush(f"{prefix}:reply:{hub.parts[0].api}", b"", b"\xff", b"x\n{}", b"\n\n\n")
    service.client.rpush(f"{prefix}:q", b"\xff\xff")
    service.client.hset(f"{prefix}:model", mapping={"revision": b"\xff", "labels": b""})
    service.client.zadd(f"{prefix}:workers", {b"\xff": 10**14})
    service.client.hset(f"{prefix}:worker:".encode() + b"\xff", mapping={"rate": "fast"})
    assert isinstance((await ask(hub, "an honest text"))[0], Prediction)
    assert isinstance((await ask(hub, text))[0], Prediction), "a foreign result is not reused"
    assert hub.alive
    assert hub.reachable


async def test_a_wake_up_that_a_dead_worker_got_is_replaced(
    service: HubAndWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a sweep nor the end of a worker's wait may help: only the hub's check is left."""
    monkeypatch.setattr(exchange, "WAIT_S", 20.0)
    hub = await service.hub()
    worker = await service.worker()
    await service.ready(hub)
    await ask(hub, "first")
    swept = hub.parts[0].snapshot
    monkeypatch.setattr(hub_module, "SWEEP_EVERY_S", 60.0)
    await until(lambda: hub.parts[0].snapshot is not swept)  # the sweep that is due has run
    for name in ("killed", "frozen"):
        lost = heartbeat_queue(service.client, "t", name, lease_ms=60_000, max_attempts=3, result_ms=60_000)
        lost.heartbeat([], {"revision": "rev"}, {"name": "m", "revision": "rev"}, 60_000)
        assert not lost.claim(10, 100, 100, idle_ms=0).entries
    sent = hub.parts[0].pipeline.run
    commands: list[str] = []

    def run(command: Command[Any]) -> asyncio.Future[Any]:
        commands.append(command.script)
        return sent(command)

    monkeypatch.setattr(hub.parts[0].pipeline, "run", run)
    async with asyncio.timeout(10):
        await ask(hub, "second")
    assert commands.count("wake") >= 2
    worker.stop()
