"""The heartbeat: a worker does not outlive it, and no model runs for ever."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from batcher.settings import WorkerSettings
from batcher.worker.heartbeat import EXIT_HUNG, GuestHeartbeat, Heartbeat, Heartbeats
from batcher.worker.host import Host
from tests.fakes import LOST, FakeQueue


class Made:
    """A heartbeat whose thread is not started: `send` is called instead."""

    def __init__(self) -> None:
        self.queue = FakeQueue()
        self.leases: set[str] = {"a", "b"}
        self.running_s = 0.0
        self.records: list[Any] = [({"state": "idle"}, {"name": "stub"})] * 3
        self.statuses: list[int] = []
        queue: Any = self.queue
        self.heartbeat = Heartbeat(
            queue,
            WorkerSettings(batch_timeout_s=5),
            self.leases,
            lambda: self.running_s,
            lambda: self.records.pop(),
            Host(exit=self.statuses.append),
        )


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["action"] for record in caplog.records if record.levelname == "CRITICAL"]


def test_each_beat_renews_the_leases_of_that_moment() -> None:
    made = Made()
    assert made.heartbeat.send()
    made.leases.discard("a")
    assert made.heartbeat.send()
    assert made.queue.heartbeats == [{"a", "b"}, {"b"}]


def test_an_outage_of_redis_is_no_reason_to_end() -> None:
    made = Made()
    made.queue.errors = [("refused", LOST)]
    assert made.heartbeat.send()
    assert made.heartbeat.send()
    assert made.statuses == []


def test_what_was_not_foreseen_in_a_beat_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise the thread would end unseen, and the worker would claim entries that it then loses."""
    made = Made()
    made.records.clear()
    assert not made.heartbeat.send()
    assert made.statuses == [EXIT_HUNG]
    assert actions(caplog) == ["worker.heartbeat"]


def test_a_model_that_runs_for_too_long_ends_the_process_and_its_leases(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = Made()
    made.running_s = 5.0
    assert made.heartbeat.send()
    made.running_s = 5.1
    assert not made.heartbeat.send()
    assert made.statuses == [EXIT_HUNG]
    assert actions(caplog) == ["worker.hung"]
    assert len(made.queue.heartbeats) == 1, "no lease is renewed any more"
    assert made.queue.retired == []


def test_a_worker_that_stops_hands_over_its_suspects() -> None:
    made = Made()
    made.heartbeat.announce()
    made.heartbeat.begin()
    made.heartbeat.end_wait()
    for _ in range(500):
        if made.queue.woken:
            break
        time.sleep(0.01)
    made.heartbeat.stop(["a"])
    assert made.queue.retired == ["a"]
    assert made.queue.woken == 1
    assert not made.heartbeat.alive


def test_a_heartbeat_stops_although_nothing_has_ended_the_wait_before() -> None:
    made = Made()
    made.heartbeat.announce()
    made.heartbeat.begin()
    made.heartbeat.stop()
    assert not made.heartbeat.alive
    assert made.statuses == [], "it has not ended because it had no record left to send"


def test_a_worker_without_leases_beats_half_as_often() -> None:
    made = Made()
    assert made.heartbeat.pause_s == 0.5
    made.leases.clear()
    assert made.heartbeat.pause_s == 1.0


class Guest:
    """The heartbeat of a worker with a lease of 2 s and a rate of 7 at another shard. `now` is its clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.leases = set[str]()
        self.rates: list[object] = []
        queue: Any = SimpleNamespace(heartbeat=lambda _, record, *__: self.rates.append(record["guest_rate"]))
        running: Any = SimpleNamespace(is_alive=lambda: True)
        self.heartbeat = GuestHeartbeat(
            queue,
            WorkerSettings(lease_ms=2000),
            self.leases,
            lambda: 0.0,
            lambda: ({"revision": "r", "rate": 7}, {"name": "stub"}),
            Host(now=lambda: self.now, daemon=lambda *_: running),
        )

    def sends(self) -> bool:
        sent = len(self.rates)
        assert self.heartbeat.send()
        return len(self.rates) > sent


def test_a_guest_makes_itself_known_when_it_comes_moves_or_was_away_for_a_lease() -> None:
    guest = Guest()
    guest.heartbeat.visit(moved=False)
    guest.heartbeat.visit(moved=False)
    assert guest.rates == [""]
    guest.now += 2.1
    guest.heartbeat.visit(moved=False)
    assert guest.rates == ["", ""]
    guest.heartbeat.visit(moved=True)
    guest.heartbeat.visit(moved=True)
    assert guest.rates == ["", "", 7], "it counts once it has moved"


def test_a_guest_sends_heartbeats_while_it_has_leases_or_counts_and_for_a_lease_after_it_came() -> None:
    guest = Guest()
    assert not guest.sends(), "it has not come"
    guest.heartbeat.visit(moved=False)
    assert guest.sends()
    guest.now += 2.1
    assert not guest.sends()
    guest.leases.add("a")
    assert guest.sends()
    guest.leases.clear()
    guest.heartbeat.visit(moved=True)
    guest.now += 2.1
    assert guest.sends()
    guest.heartbeat.leave()
    assert guest.sends(), "to say that it no longer counts"
    assert guest.rates[-1] == ""
    guest.now += 2.1
    assert not guest.sends()


class IdleThread:
    """A thread that runs nothing. Notes its number once it is started."""

    def __init__(self, started: list[int], number: int) -> None:
        self.start = lambda: started.append(number)
        self.is_alive = lambda: number in started


@pytest.mark.parametrize(
    ("lost", "begun"), [((), [0, 1, 2]), ((0,), [0, 1, 2]), ((1,), [0, 2]), ((1, 2), [0]), ((0, 1, 2), [])]
)
def test_a_worker_starts_at_home_and_wherever_it_is_known_if_any_shard_answers(
    lost: tuple[int, ...], begun: list[int]
) -> None:
    shards = [FakeQueue() for _ in range(3)]
    home, *others = (shard.queues._replace(number=number) for number, shard in enumerate(shards))
    errors = [ConnectionError(f"shard {number} does not answer") for number in range(3)]
    for number in lost:
        shards[number].errors = [("refused", errors[number])]
    started, made = list[int](), list[str]()

    def daemon(name: str, run: Any) -> Any:
        made.append(name)
        return IdleThread(started, len(made) - 1)

    heartbeats = Heartbeats(
        home._replace(others=tuple(others)),
        WorkerSettings(),
        lambda: 0.0,
        lambda: ({"revision": "r", "rate": 7}, {"name": "stub"}),
        Host(daemon=daemon),
    )
    if begun:
        heartbeats.start()
    else:
        with pytest.raises(ConnectionError) as caught:
            heartbeats.start()
        assert caught.value is errors[0]
    assert sorted(started) == begun
    assert heartbeats.alive is bool(begun)
    assert [shard.heartbeats for shard in shards] == [[set()]] * 3, "each is asked once"
