from __future__ import annotations

import pytest

import batcher.lookup.queue
from batcher.errors import TextUnknown
from batcher.lookup.queue import LocalCache, LookupResult
from tests.unit.fakes import OTHER_REVISION, REVISION, prediction


def known(cache: LocalCache, *texts: str, revision: str = REVISION) -> list[bool]:
    return [held is not None for held in cache.find(revision, texts)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The cache's clock: set its one element."""
    now = [100.0]
    monkeypatch.setattr(batcher.lookup.queue, "monotonic", lambda: now[0])
    return now


def test_gives_back_what_it_was_given() -> None:
    cache = LocalCache(10, 10_000)
    cache.put("a", prediction("a", truncated=True), 60)
    (held,) = cache.find(REVISION, ["a"])
    assert held is not None
    assert (held.fragment, held.truncated) == (prediction("a").fragment, True)


def test_revisions_do_not_meet() -> None:
    cache = LocalCache(10, 10_000)
    cache.put("a", prediction("a"), 60)
    assert known(cache, "a", revision=OTHER_REVISION) == [False]


def test_the_least_recently_used_goes_first() -> None:
    cache = LocalCache(3, 100_000)
    for text in "abc":
        cache.put(text, prediction(text), 60)
    cache.find(REVISION, ["a"])
    cache.put("d", prediction("d"), 60)
    assert known(cache, *"abcd") == [True, False, True, True]
    assert (len(cache), cache.evictions) == (3, 1)


def test_bytes_are_bounded_and_counted_to_zero() -> None:
    cache = LocalCache(1000, 5000)
    for number in range(100):
        cache.put(f"text {number}", prediction("x"), 60)
        assert 0 < cache.bytes <= 5000
    assert 5 < len(cache) < 20
    size = cache.bytes / len(cache)
    for number in range(100):
        cache.put(f"text {number}", prediction("x"), 60)
    assert cache.bytes == pytest.approx(size * len(cache), rel=0.02)


def test_every_byte_may_be_used() -> None:
    one = LocalCache(10, 10_000)
    one.put("a", prediction("x"), 60)
    full = LocalCache(10, 2 * one.bytes)
    for text in "ab":
        full.put(text, prediction("x"), 60)
    assert (known(full, *"ab"), full.evictions) == ([True, True], 0)
    only = LocalCache(10, one.bytes)
    only.put("a", prediction("x"), 60)
    assert known(only, "a") == [True]


def test_what_is_larger_than_everything_is_not_kept() -> None:
    cache = LocalCache(10, 2000)
    cache.put("small", prediction("x"), 60)
    cache.put("x" * 3000, prediction("x"), 60)
    assert (len(cache), known(cache, "small")) == (1, [True])


def test_wide_characters_are_counted_as_wide() -> None:
    narrow, wide = LocalCache(10, 100_000), LocalCache(10, 100_000)
    narrow.put("x" * 1000, prediction("x"), 60)
    wide.put("\U0001f600" * 1000, prediction("x"), 60)
    assert wide.bytes > narrow.bytes + 2900


def test_nothing_outlives_its_life(clock: list[float]) -> None:
    cache = LocalCache(10, 10_000)
    cache.put("a", prediction("a"), 5)
    clock[0] = 104.9
    assert known(cache, "a") == [True]
    clock[0] = 105.0
    assert known(cache, "a") == [False]
    assert (len(cache), cache.bytes) == (0, 0)


def test_put_again_renews(clock: list[float]) -> None:
    cache = LocalCache(10, 10_000)
    cache.put("a", prediction("a"), 5)
    size = cache.bytes
    clock[0] = 103.0
    cache.put("a", prediction("a"), 5)
    clock[0] = 107.0
    assert (known(cache, "a"), cache.bytes) == ([True], size)


@pytest.mark.parametrize("cache", [LocalCache(0, 10_000), LocalCache(10, 0)])
def test_switched_off(cache: LocalCache) -> None:
    cache.put("a", prediction("a"), 60)
    assert (known(cache, "a"), len(cache), cache.evictions) == ([False], 0, 0)


def test_the_estimate_of_an_entry_is_close_to_what_it_takes() -> None:
    import tracemalloc

    texts = [f"this is text number {number}" for number in range(5000)]
    tracemalloc.start()
    cache = LocalCache(5000, 10**8)
    before = tracemalloc.get_traced_memory()[0]
    for text in texts:
        cache.put(text[:-1] + text[-1], prediction("x"), 60)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.8 * taken < cache.bytes < 1.6 * taken


def test_texts_that_are_refused_have_no_result() -> None:
    known, foreign = prediction("known"), prediction("foreign")._replace(foreign=True)
    results = {"known": known, "computed": foreign, "stored": foreign}
    answer = LookupResult(dict(results), {}, {"known": known, "computed": foreign})
    answer.refuse_unknown()
    assert answer.by_text == answer.computed == {"known": known}
    assert {text: type(error) for text, error in answer.failed.items()} == {
        "computed": TextUnknown,
        "stored": TextUnknown,
    }
