"""The exchange with several shards: where a worker claims, and what it knows of each shard."""

from __future__ import annotations

from batcher.messages import entry_id
from batcher.settings import WorkerSettings
from batcher.worker.exchange import NOTHING
from batcher.worker.inference import CostModel
from batcher.worker.sharded import AWAY_S, ShardedExchange, exchange_with
from tests.fakes import LOST, FakeClock, FakeEvent, FakeQueue, fake_host


def test_a_worker_that_moves_claims_before_it_waits_there() -> None:
    """The shard does not know that it is idle, so it would not be woken for what waits. So at home later."""
    clock, home, other = FakeClock(), FakeQueue(["at home"]), FakeQueue(["elsewhere"])
    queues = home.queues._replace(others=(other.queues._replace(number=1),))
    exchange = exchange_with(
        queues, WorkerSettings(), "packed", lambda results: None, FakeEvent(clock), fake_host(clock)
    )
    assert isinstance(exchange, ShardedExchange)
    exchange.visit = lambda number, moved: None
    exchange.leave = lambda number: None
    exchange.home_reachable = lambda: True

    def claimed() -> list[str]:
        return [
            entry.id for entry in exchange.claim(exchange.claim_command(0, CostModel.start(), 256)).entries
        ]

    home.errors = [("refused", LOST)]
    assert claimed() == []
    assert not exchange.idle
    assert claimed() == [entry_id("elsewhere")]
    assert claimed() == []
    assert exchange.idle
    clock.time += AWAY_S
    assert exchange.wait(0.0, exchange.claim_command(0, CostModel.start(), 256, waits=True)) == NOTHING
    assert not exchange.idle
    assert claimed() == [entry_id("at home")]
