"""One connection for all commands of a process: shared, replaced when lost, replies never mixed up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis

from batcher.connection.clients import connect_async
from batcher.connection.pipeline import Pipeline
from batcher.core.commands import Cancel, Enqueue, EnqueueAll, Outcomes, State
from tests.servers import RedisServer

pytestmark = pytest.mark.redis


class Bench:
    """A pipeline to a real server, and how many connections it has made."""

    def __init__(self, server: RedisServer, retries: int, timeout_s: float = 20.0) -> None:
        self.retries = retries
        self.client = connect_async(server.url, timeout_s=timeout_s, retries=retries)
        self.pipeline = Pipeline(self.client, "{t}", retries=retries)
        self.admin = server.client()

    def connections(self) -> int:
        return len(self.admin.client_list()) - 1

    def kill_all(self) -> None:
        self.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def close(self) -> None:
        await self.pipeline.close()
        self.admin.close()


@pytest.fixture(params=[0, 1])
async def bench(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made = Bench(redis_server, request.param)
    yield made
    await made.close()


async def test_each_command_gets_its_own_reply_or_error(bench: Bench) -> None:
    commands = ("SET", "a", b"\x00\xff"), ("LPUSH", "a", 1), ("GET", "a"), ("PING",)
    asked = [bench.pipeline.execute(*words) for words in commands]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[1], redis.exceptions.ResponseError)
    assert [answers[0], *answers[2:]] == [b"OK", b"\x00\xff", b"PONG"]


async def test_a_command_that_cannot_be_sent_fails_alone(bench: Bench) -> None:
    bad, good = bench.pipeline.execute("ECHO", "\ud800"), bench.pipeline.execute("ECHO", "a")
    with pytest.raises(UnicodeEncodeError):
        await bad
    assert await good == b"a"


async def test_one_tick_is_one_write_and_all_share_a_connection(bench: Bench) -> None:
    for number in range(20):
        assert await bench.pipeline.execute("ECHO", number) == b"%d" % number
    assert bench.pipeline.writes == 20
    answers = await asyncio.gather(*(bench.pipeline.execute("ECHO", number) for number in range(50)))
    assert answers == [b"%d" % number for number in range(50)]
    assert bench.pipeline.writes == 21
    assert bench.connections() == 1


async def test_finding_15_what_awaits_replies_is_bounded_in_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batcher.connection.pipeline.MAX_SENT_BYTES", 10_000)
    large = b"x" * 4_000
    answers = await asyncio.gather(*(bench.pipeline.execute("ECHO", large) for _ in range(9)))
    assert answers == [large] * 9
    assert 3 <= bench.pipeline.writes <= 9
    assert await bench.pipeline.execute("STRLEN", b"x" * 20_000) == 0, "a larger one is sent"


async def test_a_lost_connection_is_replaced(bench: Bench) -> None:
    assert await bench.pipeline.execute("PING") == b"PONG"
    bench.kill_all()
    waiting = [bench.pipeline.execute("ECHO", number) for number in range(3)]
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    if bench.retries:
        assert answers == [b"0", b"1", b"2"], "sent again, in order"
    else:
        assert {type(answer) for answer in answers} <= {bytes, redis.exceptions.ConnectionError}
    assert await bench.pipeline.execute("PING") == b"PONG"
    assert bench.connections() == 1


async def test_a_connection_that_ended_while_idle_costs_nothing(bench: Bench) -> None:
    assert await bench.pipeline.execute("PING") == b"PONG"
    bench.kill_all()
    await asyncio.sleep(0.05)
    assert await bench.pipeline.execute("PING") == b"PONG"


async def test_a_cancelled_request_cancels_no_command_and_leaves_its_reply_to_nobody(bench: Bench) -> None:
    waiting = bench.pipeline.execute("BLPOP", "nothing", 0.2)
    neighbour = bench.pipeline.execute("SET", "a", 1)
    await asyncio.sleep(0.05)
    waiting.cancel()
    for number in range(5):
        assert await bench.pipeline.execute("ECHO", number) == b"%d" % number
    assert await neighbour == b"OK"
    assert bench.connections() == 1


@pytest.mark.timeout(20)
async def test_finding_06c_closing_waits_for_what_was_asked_and_ends(redis_server: RedisServer) -> None:
    """Python 3.12 completes `gather` over finished tasks without a tick: this used to spin for ever."""
    bench = Bench(redis_server, retries=0)
    asked = [bench.pipeline.execute("SET", "a", 1), bench.pipeline.execute("INCR", "a")]
    await bench.close()
    assert [future.result() for future in asked] == [b"OK", 2]


async def test_what_is_asked_after_the_end_fails_and_opens_no_connection(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=1)
    assert await bench.pipeline.execute("PING") == b"PONG"
    await bench.pipeline.close()
    with pytest.raises(redis.exceptions.ConnectionError, match="closed: by this process"):
        await bench.pipeline.execute("PING")
    assert len(asyncio.all_tasks()) == 1
    await bench.close()


async def test_scripts_run_in_the_order_in_which_they_were_asked_even_if_unknown(bench: Bench) -> None:
    """A cancel that is sent again because its script is unknown would cancel what was enqueued after it."""
    first = [bench.pipeline.run(Cancel("a", ["x"])), bench.pipeline.run(Outcomes(["x"]))]
    assert await asyncio.gather(*first) == [0, [State("gone")]]
    assert bench.admin.info("commandstats")["cmdstat_eval"]["calls"] == 2
    assert await bench.pipeline.run(Cancel("a", ["x"])) == 0
    assert bench.admin.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    bench.admin.script_flush()
    enqueue = EnqueueAll([Enqueue(["x"], ["text"], [1], "a", "interactive", 10_000, 100)])
    first = [bench.pipeline.run(one) for one in (enqueue, Cancel("a", ["x"]), Outcomes(["x"]))]
    await asyncio.gather(*first)
    bench.admin.script_flush()
    again = [bench.pipeline.run(one) for one in (enqueue, Outcomes(["x"]), Cancel("a", ["x"]))]
    assert [await one for one in again][1:] == [[State("waiting")], 1]


async def test_a_server_that_does_not_answer_in_time(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=1, timeout_s=0.2)
    with pytest.raises(redis.exceptions.TimeoutError):
        await bench.pipeline.execute("BLPOP", "nothing", 0.6)
    await asyncio.sleep(0.6)
    assert await bench.pipeline.execute("PING") == b"PONG"
    await bench.close()


async def test_the_time_to_answer_begins_when_a_command_is_sent(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=0, timeout_s=0.5)
    for pause_s in (0.3, 0.1):
        await bench.pipeline.execute("PING")
        await asyncio.sleep(pause_s)
    assert await bench.pipeline.execute("BLPOP", "nothing", 0.2) is None
    await bench.close()


async def test_nothing_is_too_large(bench: Bench) -> None:
    large = b"x" * 20_000_000
    assert await bench.pipeline.execute("SET", "large", large) == b"OK"
    assert await bench.pipeline.execute("GET", "large") == large


async def test_a_server_that_is_not_there(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=1)
    redis_server.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        await bench.pipeline.execute("PING")
    redis_server.start()
    assert await bench.pipeline.execute("PING") == b"PONG"
    await bench.pipeline.close()
