"""What is written about published revisions, on a fake server and on a real one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
import redis

from batcher.core.publications import FAILED, Candidate
from batcher.publishing.publications import FORGET_S, SEEN_S, PublicationStore
from batcher.shards import Shard

SHARD = Shard(0, "", "default", "default")


@pytest.fixture
def stored(client: redis.Redis) -> PublicationStore:
    return PublicationStore([client], [SHARD])


def test_finding_49_why_a_revision_failed_is_forgotten_once_it_is_not_published(
    client: redis.Redis, stored: PublicationStore
) -> None:
    for number in range(1, 6):
        assert stored.publish("topics", "/no/such/model") == number
        stored.report(f"topics@{number}", "there is no such directory")
    stored.publish("", "/another/model")
    assert stored.read().failures.keys() == {"topics@5"}
    stored.move("topics", 0)
    fields = client.hkeys(f"{SHARD.prefix}:revisions")
    assert not [name for name in fields if name.startswith(FAILED.encode())]


def test_why_a_revision_failed_is_forgotten_when_it_is_tried_again(stored: PublicationStore) -> None:
    number = stored.publish("topics", "/not/yet/there")
    for again in (
        lambda: stored.try_out("topics", Candidate(number, 0.5)),
        lambda: stored.move("topics", number),
    ):
        stored.report(f"topics@{number}", "there is no such directory")
        again()
        assert stored.read().failures == {}


def test_a_move_that_another_command_overtook_let_a_revision_answer_that_no_worker_serves(
    stored: PublicationStore,
) -> None:
    """`back` has read which revision was before when another one is published, which drops that."""
    for reference in ("/one", "/two"):
        stored.move("topics", stored.publish("topics", reference))
    assert stored.publish("topics", "/three") == 3
    with pytest.raises(LookupError):
        stored.move("topics", 1)
    published = stored.read().of("topics")
    assert (published.current, published.references) == (2, {2: "/two", 3: "/three"})


def test_two_commands_that_moved_back_at_once_dropped_the_revision_to_return_to(
    stored: PublicationStore,
) -> None:
    for reference in ("/one", "/two"):
        stored.move("topics", stored.publish("topics", reference))
    before = stored.read().of("topics").previous
    for _ in range(2):
        stored.move("topics", before)
    published = stored.read().of("topics")
    assert (published.current, published.previous) == (1, 2)
    assert published.references == {1: "/one", 2: "/two"}
    stored.publish("topics", "/three")
    stored.move("topics", 1)
    published = stored.read().of("topics")
    assert published.references == {1: "/one"}, "one that has not answered is taken back"


def test_finding_49_an_api_process_that_starts_forgets_those_that_ended(
    client: redis.Redis, stored: PublicationStore
) -> None:
    key = f"{SHARD.prefix}:apis"
    seconds, _ = client.time()
    for number in range(5):
        client.hset(key, f"ended-{number}", f"1 {seconds - FORGET_S - 10}")
    client.hset(key, "silent", f"1 {seconds - FORGET_S / 2}")
    stored.seen("new", 2)
    assert set(client.hkeys(key)) == {b"silent", b"new"}
    assert stored.unconfirmed(2) == []
    assert stored.unconfirmed(3) == ["new"]
    assert 0 < client.ttl(key) <= FORGET_S


def test_a_process_is_waited_for_until_it_is_silent_and_is_forgotten_later(
    client: redis.Redis, stored: PublicationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.publishing.publications.server_time_s", lambda client: 10_000.0)
    key = f"{SHARD.prefix}:apis"
    silent_s = {"live": SEEN_S - 1, "late": SEEN_S, "kept": FORGET_S, "ended": FORGET_S + 1}
    for name, seconds in silent_s.items():
        client.hset(key, name, f"1 {10_000 - seconds}")
    client.hset(key, "ahead", f"1 {10_000 + SEEN_S - 1}")
    client.hset(key, "far ahead", f"1 {10_000 + FORGET_S + 1}")
    assert sorted(stored.unconfirmed(2)) == ["ahead", "live"]
    assert stored.unconfirmed(1) == []
    stored.seen("live", 2)
    assert stored.unconfirmed(2) == ["ahead"]
    assert client.hlen(key) == 6, "only a new process looks for those that have ended"
    stored.seen("new", 1)
    assert set(client.hkeys(key)) == {b"live", b"late", b"kept", b"ahead", b"new"}


def test_after_the_clock_of_redis_was_set_back_every_move_waited_for_processes_that_had_ended(
    client: redis.Redis, stored: PublicationStore
) -> None:
    key = f"{SHARD.prefix}:apis"
    seconds, _ = client.time()
    client.hset(key, "ended", f"1 {seconds + 3600}")
    client.hset(key, "lives", f"1 {seconds}")
    assert stored.unconfirmed(2) == ["lives"]
    stored.seen("new", 2)
    assert set(client.hkeys(key)) == {b"lives", b"new"}


class Unreliable:
    """A client whose transactions raise: before they begin (`broken`), before it is executed (`unsent`),
    or afterwards (`answers_lost`).
    """

    def __init__(self) -> None:
        self._client = fakeredis.FakeRedis()
        self.connected = True
        self.broken = self.unsent = self.answers_lost = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def hgetall(self, key: str) -> Any:
        if not self.connected:
            raise redis.ConnectionError("away")
        return self._client.hgetall(key)

    def transaction(self, change: Callable[[Any], None], key: str) -> None:
        if self.broken:
            raise redis.ConnectionError("reset by peer")
        if self.unsent:
            with self._client.pipeline() as pipe:
                pipe.watch(key)
                change(pipe)
            raise redis.ConnectionError("reset by peer")
        self._client.transaction(change, key)
        if self.answers_lost:
            raise redis.ConnectionError("reset by peer")


@pytest.fixture
def shards() -> list[Any]:
    return [Unreliable(), Unreliable()]


@pytest.fixture
def sharded(shards: list[Any]) -> PublicationStore:
    return PublicationStore(shards, [SHARD, Shard(1, "", "default", "default")])


def test_a_move_was_reported_as_failed_and_took_effect(shards: list[Any], sharded: PublicationStore) -> None:
    """The second shard broke off between its first answer and the copy."""
    number = sharded.publish("", "/one")
    shards[1].broken = True
    moves = sharded.move("", number)
    assert (sharded.read().of("").current, sharded.behind()) == (1, [1])
    shards[1].broken = False
    alone = PublicationStore([shards[1]], [Shard(1, "", "default", "default")])
    assert alone.read().moves == moves - 1, "the shard does not have it yet"
    sharded.read()
    assert (alone.read().moves, alone.read().of("").current) == (moves, 1)
    assert sharded.behind() == []
    for down, behind in (({1}, [1]), ({0, 1}, [0, 1])):
        for number, shard in enumerate(shards):
            shard.connected = number not in down
        assert sharded.behind() == behind


def test_a_shard_that_lost_its_data_gets_the_revisions_back(
    shards: list[Any], sharded: PublicationStore
) -> None:
    sharded.move("", sharded.publish("", "/one"))
    shards[0].flushall()
    assert sharded.read().of("").current == 1
    assert PublicationStore(shards[:1], [SHARD]).read().of("").current == 1


def test_a_move_whose_reply_was_lost_was_reported_as_failed(
    shards: list[Any], sharded: PublicationStore
) -> None:
    number = sharded.publish("", "/one")
    shards[0].answers_lost = True
    assert sharded.move("", number) == 2
    shards[0].broken = True
    with pytest.raises(redis.ConnectionError):
        sharded.move("", 0)
    assert sharded.read().of("").current == 1


def test_a_move_that_was_not_executed_has_failed(shards: list[Any], sharded: PublicationStore) -> None:
    number = sharded.publish("", "/one")
    shards[0].unsent = True
    with pytest.raises(redis.ConnectionError):
        sharded.move("", number)
    assert sharded.read().of("").current == 0


def test_a_change_that_was_overtaken_keeps_nothing_that_it_had_read(
    client: redis.Redis, stored: PublicationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A candidate that had ended meanwhile would have come back."""
    stored.publish("spam", "/spam")
    stored.try_out("spam", Candidate(1, 0.5))
    transaction, other = client.transaction, [PublicationStore([client], [SHARD])]

    def overtaken(update: Callable[[Any], None], *keys: str) -> Any:
        monkeypatch.undo()

        def both(pipe: Any) -> None:
            update(pipe)
            if other:
                other.pop().move("spam", 1)

        return transaction(both, *keys)

    monkeypatch.setattr(client, "transaction", overtaken)
    assert stored.publish("topics", "/topics") == 1
    assert not other
    read = stored.read()
    assert (read.of("spam").current, read.of("topics").references) == (1, {1: "/topics"})
    assert read.candidates == {}


def test_shards_that_have_the_same_state_are_only_read(
    client: redis.Redis, stored: PublicationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored.publish("topics", "/topics")
    written: list[str] = []
    monkeypatch.setattr(client, "transaction", lambda _, *keys: written.extend(keys))
    assert stored.read().of("topics").references == {1: "/topics"}
    assert written == []
