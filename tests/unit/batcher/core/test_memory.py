"""When the cache beside the queue gives way: by what INFO says of memory."""

from __future__ import annotations

import pytest

from batcher.core.redis_watch import EVICT_ABOVE, MAX_EVICTIONS, NO_MEMORY, RESULT_BYTES, Memory, read_memory

MB = 1024**2
INFO = b"# Memory\r\nused_memory:%d\r\nused_memory_human:1.00M\r\nmaxmemory:%d\r\ntotal_system_memory:%d\r\n"


def test_info_is_read() -> None:
    assert read_memory(INFO % (3 * MB, 8 * MB, 64 * MB)) == Memory(3 * MB, 8 * MB)


def test_without_a_maxmemory_half_of_the_machine_is_the_limit() -> None:
    assert read_memory(INFO % (3 * MB, 0, 64 * MB)) == Memory(3 * MB, 32 * MB)


@pytest.mark.parametrize(
    "answer", [None, PermissionError("NOPERM"), b"", b"used_memory", b"used_memory:\xb2\r\nmaxmemory:-1", {}]
)
def test_an_answer_that_says_nothing_evicts_nothing(answer: object) -> None:
    memory = read_memory(answer)
    assert memory == NO_MEMORY
    assert (memory.share, memory.surplus, memory.full) == (0.0, 0, False)


@pytest.mark.parametrize(
    ("share", "evicts", "full"),
    [(0.0, False, False), (0.69, False, False), (0.72, True, False), (0.84, True, False), (0.86, True, True)],
)
def test_first_the_cache_shrinks_then_it_no_longer_grows(share: float, evicts: bool, full: bool) -> None:
    memory = Memory(int(share * 192 * MB), 192 * MB)
    assert (memory.surplus > 0, memory.full) == (evicts, full)


def test_as_much_is_drawn_as_brings_memory_down_but_a_sweep_stays_short() -> None:
    above = 1000 * RESULT_BYTES
    memory = Memory(int(EVICT_ABOVE * 192 * MB) + above, 192 * MB)
    assert abs(memory.surplus - 1000) <= 1
    assert Memory(192 * MB, 192 * MB).surplus == MAX_EVICTIONS
    assert Memory(10 * 192 * MB, 192 * MB).surplus == MAX_EVICTIONS


@pytest.mark.parametrize("rate", [100, 1000, 10_000, 16_000])
def test_memory_settles_below_the_limit_at_any_rate(rate: int) -> None:
    """A second at a time: results of the last minute, and a cache."""
    limit, kept, cached = 768 * MB, rate * 60 * 450, 0
    for _ in range(7200):
        memory = Memory(kept + cached, limit)
        assert memory.used < 0.95 * limit
        cached = max(cached + (0 if memory.full else rate * 494) - memory.surplus * 494, 0)
    assert memory.share < 0.95
