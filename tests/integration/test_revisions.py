"""What is written about published revisions, on a fake server and on a real one."""

from __future__ import annotations

import pytest
import redis

from batcher.admin.revisions import FORGET_S, RevisionStore
from batcher.core.revisions import FAILED
from batcher.shards import Shard

SHARD = Shard(0, "", "default", "default")


@pytest.fixture
def stored(client: redis.Redis) -> RevisionStore:
    return RevisionStore([client], [SHARD])


def test_finding_49_why_a_revision_failed_is_forgotten_once_it_is_not_published(
    client: redis.Redis, stored: RevisionStore
) -> None:
    for number in range(1, 6):
        assert stored.publish("topics", "/no/such/model") == number
        stored.report(f"topics@{number}", "there is no such directory")
    stored.publish("", "/another/model")
    assert stored.read().failures.keys() == {"topics@5"}
    stored.move("topics", 0)
    fields = client.hkeys(f"{SHARD.prefix}:revisions")
    assert not [name for name in fields if name.startswith(FAILED.encode())]


def test_a_move_that_another_command_overtook_let_a_revision_answer_that_no_worker_serves(
    stored: RevisionStore,
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
    stored: RevisionStore,
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
    client: redis.Redis, stored: RevisionStore
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


def test_after_the_clock_of_redis_was_set_back_every_move_waited_for_processes_that_had_ended(
    client: redis.Redis, stored: RevisionStore
) -> None:
    key = f"{SHARD.prefix}:apis"
    seconds, _ = client.time()
    client.hset(key, "ended", f"1 {seconds + 3600}")
    client.hset(key, "lives", f"1 {seconds}")
    assert stored.unconfirmed(2) == ["lives"]
    stored.seen("new", 2)
    assert set(client.hkeys(key)) == {b"lives", b"new"}
