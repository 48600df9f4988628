"""The hubs and workers of one schedule: the product's own, on simulated time, threads and connections."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from threading import get_ident
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from greenlet import getcurrent

from batcher.connection import outage as outage_module
from batcher.core import holds as holds_module
from batcher.hub import hub as hub_module
from batcher.hub.hub import ReplyHub
from batcher.settings import WorkerSettings
from batcher.worker import inference as inference_module
from batcher.worker.batching import CostModel
from batcher.worker.exchange import WAIT_S
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.loop import Worker
from batcher.worker.queue import Queues
from model_store import Tokens
from model_store.stub import StubClassifier
from tests.fakes import heartbeat_queue, shard_hub
from tests.simulation.clients import HubClient, WorkerClient
from tests.simulation.loop import SimulatedLoop
from tests.simulation.network import Network
from tests.simulation.threads import Process

NAME = "simulated"
SETTINGS = WorkerSettings(batch_timeout_s=10)
COST = 2_000
# What a forward pass takes, and how much longer now and then, but not twice in a row: budgets may be 1 s.
FIXED_S, TOKEN_S, SLOW, SLOW_S, SLOW_AGAIN_S = 0.004, 0.0002, 0.02, 0.5, 2.0
RAISE, KILL = -1, -2


class Model(StubClassifier):
    """A model whose answers follow from the text, and whose passes take simulated time."""

    def __init__(self, process: Process, network: Network) -> None:
        super().__init__()
        self._process, self._network = process, network
        self._slow_from = 0.0

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        now = self._network.loop.time()
        slow = self._network.troubled and self._network.random.random() < SLOW and now >= self._slow_from
        if slow:
            self._slow_from = now + SLOW_AGAIN_S
        self._process.sleep(FIXED_S + TOKEN_S * sum(map(len, batch)) + SLOW_S * slow)
        if any(tokens.ids[0] == KILL for tokens in batch):
            self._process.die()
        return super().classify(batch)


def make_hub(networks: Sequence[Network], name: str, api: str, caches: bool) -> ReplyHub:
    """A hub that is not started, with the clients of `ReplyHub.connect`."""
    hub_module.process_name = lambda: f"host-1-{api}"
    parts = []
    for network in networks:
        hints_s = hub_module.HINT_BLOCK_S + 2.0
        clients: Any = HubClient(network, name, 1.0, 1), HubClient(network, name, hints_s, 0)
        part = shard_hub(*clients, name=network.shard.name, cost=COST, cache_here=caches, cache_name=NAME)
        part.outage.now = network.loop.time
        parts.append(part)
    return ReplyHub(parts)


def make_worker(networks: Sequence[Network], process: Process, caches: bool) -> Worker:
    """A worker that is not started, with the clients of `build_worker`. Its home is the first network."""
    model = Model(process, networks[0])

    def queue(network: Network, timeout_s: float, retries: int) -> HeartbeatQueue:
        client: Any = WorkerClient(network, process, timeout_s, retries)
        return heartbeat_queue(
            client,
            network.shard.name,
            process.name.replace(" ", "-"),
            lease_ms=SETTINGS.lease_ms,
            max_attempts=SETTINGS.max_attempts,
            result_ms=60_000,
            revision=model.info.revision,
            cache_ms=60_000 if caches else 0,
            cache_name=NAME,
            helps=len(networks) > 1,
        )

    def queues(network: Network, others: tuple[Queues, ...] = ()) -> Queues:
        beat_s = max(SETTINGS.lease_ms / 4000, 0.5)
        three = queue(network, 2.0, 3), queue(network, WAIT_S + 1.0, 0), queue(network, beat_s, 1)
        return Queues(*three, network.shard.number, others)

    others = tuple(queues(network) for network in networks[1:])
    worker = Worker(model, queues(networks[0], others), SETTINGS, lambda *results: None, host=process.host)
    worker.inference.cost = CostModel.start(FIXED_S, TOKEN_S)
    worker.stats.rate = 1 / TOKEN_S
    return worker


class OwnRandom(Random):
    """Draws by the seed for the thread that made it. Threads that other tests have left get other numbers."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._thread, self._others = get_ident(), Random()

    def random(self) -> float:
        return super().random() if get_ident() == self._thread else self._others.random()


@contextmanager
def nothing_else_by_chance(loop: SimulatedLoop, seed: int) -> Iterator[None]:
    """What the product draws, or takes from the machine, comes from the seed."""
    with (
        patch.object(outage_module.RANDOM, "random", OwnRandom(seed).random),
        patch.object(holds_module, "time", SimpleNamespace(monotonic=loop.time, time=time.time)),
        patch.object(hub_module, "process_name", lambda: "host-1-"),
        patch.object(inference_module, "threading", SimpleNamespace(get_ident=lambda: id(getcurrent()))),
    ):
        yield
