"""Which shard a text belongs to, what the settings allow, and the sums over shards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import redis
from pydantic import ValidationError

from batcher.connection.cluster import MAX_ASKED, Route, Search
from batcher.connection.redis_url import cluster_parts
from batcher.core.redis_watch import Memory
from batcher.core.snapshot import NO_SNAPSHOT, Fallback, LaneDepth, ModelRecord, merge
from batcher.messages import entry_id
from batcher.settings import JobSettings, QueueSettings
from batcher.shards import by_shard, shard_of

IDS = [entry_id(f"text {number}") for number in range(4000)]
LIST = "redis://a redis://b redis://c"
SHARDS_OF_5 = [3, 4, 4, 0, 3, 2, 3, 1, 3, 1, 4, 0]
CLUSTER = "redis+cluster://a:7000,b:7001"


def test_texts_spread_evenly_and_one_shard_more_moves_only_its_share() -> None:
    for shards in (2, 3, 7, 64):
        counts = Counter(shard_of(entry, shards) for entry in IDS)
        assert set(counts) == set(range(shards))
        assert max(counts.values()) < 1.6 * len(IDS) / shards
    moved = [entry for entry in IDS if shard_of(entry, 3) != shard_of(entry, 4)]
    assert {shard_of(entry, 4) for entry in moved} == {3}
    assert 0.2 < len(moved) / len(IDS) < 0.3


def test_the_shard_of_a_text_never_changes() -> None:
    """Every process computes it, in every version."""
    assert [shard_of(entry, 5) for entry in IDS[:12]] == SHARDS_OF_5
    assert all(shard_of(entry, 1) == 0 for entry in IDS[:100])
    letters = "abcdefghijkl"
    first = [letter for letter, shard in zip(letters, SHARDS_OF_5, strict=True) if shard == SHARDS_OF_5[0]]
    assert by_shard(letters, IDS[:12], 5)[SHARDS_OF_5[0]] == first


def test_one_shard_has_the_keys_of_always() -> None:
    (shard,) = QueueSettings(name="n").queue_shards
    assert (shard.prefix, shard.cache_name) == ("{millrace:2:n}", "n")


def test_a_list_of_urls_is_one_shard_each() -> None:
    settings: Any = JobSettings(name="n", redis_url=LIST)  # type: ignore[arg-type]
    assert [shard.url for shard in settings.queue_shards] == LIST.split()
    assert [shard.prefix for shard in settings.queue_shards] == [
        "{millrace:2:n}",
        "{millrace:2:n:1}",
        "{millrace:2:n:2}",
    ]
    assert {settings.cache_name(shard) for shard in settings.queue_shards} == {"n"}
    assert settings.jobs_url == "redis://a"


def test_in_a_cluster_cached_results_are_in_the_slot_of_their_shard() -> None:
    settings: Any = QueueSettings(name="n", redis_url=CLUSTER, shards=2)  # type: ignore[arg-type]
    assert [settings.cache_name(shard) for shard in settings.queue_shards] == [
        "{millrace:2:n}",
        "{millrace:2:n:1}",
    ]
    apart: Any = settings.model_copy(update={"cache_url": QueueSettings().redis_url})
    assert {apart.cache_name(shard) for shard in settings.queue_shards} == {"n"}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"shards": 2}, "needs several servers"),
        ({"shards": 2, "redis_url": LIST}, "lists 3 URLs"),
        ({"redis_url": "redis://a redis://a"}, "the same URL twice"),
        ({"redis_url": f"redis://c {CLUSTER}"}, "give it alone"),
        ({"cache_url": CLUSTER}, "must be a single Redis"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        JobSettings(**settings)


def test_the_url_of_a_cluster_names_nodes_and_how_to_talk_to_them() -> None:
    assert cluster_parts(CLUSTER) == ([("a", 7000), ("b", 7001)], {})
    nodes, options = cluster_parts("rediss+cluster://me:p%40ss@[::1],b:1/0?ssl_check_hostname=no")
    assert nodes == [("::1", 6379), ("b", 1)]
    assert options == {"username": "me", "password": "p@ss", "ssl": True, "ssl_check_hostname": False}
    with pytest.raises(ValueError, match="no databases"):
        cluster_parts("redis+cluster://a:1/3")
    with pytest.raises(ValueError, match="does not support option db"):
        cluster_parts("redis+cluster://a:1?db=3")


def moved_to(address: str) -> Exception:
    error = redis.exceptions.ConnectionError("elsewhere")
    error.__cause__ = redis.exceptions.MovedError(f"1 {address}")
    return error


def fail(search: Search, error: Exception) -> None:
    with search.attempt():
        raise error


def test_a_connection_follows_moved_and_begins_there_the_next_time() -> None:
    route = Route([("a", 1), ("b", 2)], "key")
    found = []
    for address in (search := route.search(1.0)):
        found.append(address)
        with search.attempt():
            if address == ("a", 1):
                raise moved_to("c:3")
    assert found == [("a", 1), ("c", 3)]
    assert next(iter(route.search(1.0))) == ("c", 3)


def test_moved_without_a_host_names_a_port_of_the_node_that_said_it() -> None:
    search = Route([("a", 1), ("b", 2)], "key").search(1.0)
    addresses = iter(search)
    next(addresses)
    fail(search, redis.exceptions.ConnectionError("refused"))
    assert next(addresses) == ("b", 2)
    fail(search, moved_to(":3"))
    assert next(addresses) == ("b", 3)


def test_a_dead_master_is_looked_for_at_the_other_nodes() -> None:
    route = Route([("a", 1), ("b", 2)], "key")
    search = route.search(1.0)
    addresses = iter(search)
    refused = redis.exceptions.ConnectionError("refused")
    assert next(addresses) == ("a", 1)
    fail(search, refused)
    assert next(addresses) == ("b", 2)
    fail(search, refused)
    with pytest.raises(redis.exceptions.ConnectionError, match="refused"):
        next(addresses)
    assert next(iter(route.search(1.0))) == ("b", 2), "another node is the first one next time"


def test_nodes_that_send_each_other_on_do_not_hold_a_connection_for_ever() -> None:
    search = Route([("a", 1)], "key").search(60.0)
    addresses = iter(search)
    for number in range(MAX_ASKED):
        next(addresses)
        fail(search, moved_to("ab"[number % 2] + ":1"))
    with pytest.raises(redis.exceptions.ConnectionError):
        next(addresses)


def test_the_state_of_the_service_is_the_sum_of_its_shards() -> None:
    model = ModelRecord("m", "rev", ("a", "b"), 9, "stub", "f32")
    one = replace(
        NO_SNAPSHOT,
        workers=2,
        rate=10.0,
        interactive=LaneDepth(3, 30, 500),
        solo=1,
        memory=Memory(5, 10),
        worked=7,
    )
    fallback = Fallback(1, "w", "torch", "f32", "f32", "because")
    two = replace(
        one,
        memory=Memory(1, 20),
        model=model,
        interactive=LaneDepth(1, 10, 900),
        fallback=fallback,
        swept=True,
        recovered=4,
    )
    whole = merge([one, two])
    assert (whole.workers, whole.rate, whole.solo, whole.worked) == (4, 20.0, 2, 14)
    assert whole.interactive == LaneDepth(4, 40, 900)
    assert whole.memory == Memory(5, 10), "that of the fullest: one that is full refuses its texts"
    assert (whole.model, whole.fallback, whole.swept, whole.recovered) == (model, fallback, False, 4)
