"""Connections that are kept: used one after the other, replaced when lost, never mixed up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import redis

from batcher.core.connection import connect_async
from batcher.core.pool import ConnectionPool
from tests.servers import RedisServer

pytestmark = pytest.mark.redis


class Bench:
    """Lines to a real server, and how many connections they have made."""

    def __init__(self, server: RedisServer, retries: int, timeout_s: float = 20.0) -> None:
        self.client = connect_async(server.url, timeout_s=timeout_s, retries=retries)
        self.lines = ConnectionPool(self.client, retries)
        self.admin = server.client()

    def connections(self) -> int:
        return len(self.admin.client_list()) - 1

    def kill_all(self) -> None:
        self.admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    async def close(self) -> None:
        await self.lines.close()
        await self.client.aclose()
        self.admin.close()


@pytest.fixture(params=[0, 1])
async def bench(redis_server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made = Bench(redis_server, request.param)
    yield made
    await made.close()


async def test_answers_stand_in_the_places_of_their_commands(bench: Bench) -> None:
    answers = await bench.lines.ask([("SET", "a", b"\x00\xff"), ("LPUSH", "a", 1), ("GET", "a"), ("PING",)])
    assert isinstance(answers[1], redis.exceptions.ResponseError)
    assert [answers[0], *answers[2:]] == [b"OK", b"\x00\xff", b"PONG"]


async def test_one_after_the_other_shares_a_connection_and_those_at_once_do_not(bench: Bench) -> None:
    for number in range(20):
        assert await bench.lines.ask([("ECHO", number)]) == [b"%d" % number]
    assert bench.connections() == 1
    for _ in range(3):
        answers = await asyncio.gather(*(bench.lines.ask([("ECHO", number)]) for number in range(5)))
        assert answers == [[b"%d" % number] for number in range(5)]
    assert bench.connections() == 5


async def test_lost_connections_are_replaced_all_of_them(bench: Bench) -> None:
    await asyncio.gather(*(bench.lines.ask([("PING",)]) for _ in range(5)))
    bench.kill_all()
    if not bench.lines._retries:
        with pytest.raises(redis.exceptions.ConnectionError):
            await bench.lines.ask([("PING",)])
    for _ in range(5):
        assert await bench.lines.ask([("PING",)]) == [b"PONG"]
    assert bench.connections() == 1


async def test_a_cancelled_exchange_leaves_its_answer_to_nobody(bench: Bench) -> None:
    await bench.lines.ask([("PING",)])
    waiting = asyncio.create_task(bench.lines.ask([("BLPOP", "nothing", 0.2), ("ECHO", "late")]))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for number in range(5):
        assert await bench.lines.ask([("ECHO", number)]) == [b"%d" % number]
        await asyncio.sleep(0.05)
    assert bench.connections() == 1


async def test_a_server_that_does_not_answer_in_time(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=1, timeout_s=0.1)
    with pytest.raises(redis.exceptions.TimeoutError):
        await bench.lines.ask([("BLPOP", "nothing", 0.3)])
    await asyncio.sleep(0.3)
    assert await bench.lines.ask([("PING",)]) == [b"PONG"]
    await bench.close()


async def test_nothing_that_a_line_takes_is_too_large_for_it(bench: Bench) -> None:
    large = b"x" * 20_000_000
    assert await bench.lines.ask([("SET", "large", large), ("STRLEN", "large")]) == [b"OK", len(large)]
    assert await bench.lines.ask([("GET", "large")]) == [large]


async def test_a_server_that_is_not_there(redis_server: RedisServer) -> None:
    bench = Bench(redis_server, retries=1)
    redis_server.kill()
    with pytest.raises(redis.exceptions.ConnectionError):
        await bench.lines.ask([("PING",)])
    redis_server.start()
    assert await bench.lines.ask([("PING",)]) == [b"PONG"]
    await bench.lines.close()
    await bench.client.aclose()


@pytest.fixture
async def odd() -> AsyncIterator[tuple[ConnectionPool, list[bytes]]]:
    """Lines to a server that answers each PING with the next of these, in pieces; then with PONG."""
    answers: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while asked := await reader.read(4096):
                answer = answers.pop(0) if b"PING" in asked and answers else b"+PONG\r\n" * asked.count(b"*")
                for at in range(0, len(answer), 2):
                    writer.write(answer[at : at + 2])
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = connect_async(f"redis://127.0.0.1:{port}/0", timeout_s=1.0, retries=0)
    lines = ConnectionPool(client, retries=1)
    yield lines, answers
    await lines.close()
    await client.aclose()
    await asyncio.sleep(0.02)  # so that it sees them end
    server.close()


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(
    odd: tuple[ConnectionPool, list[bytes]],
) -> None:
    lines, answers = odd
    answers += [b"+ONE\r\n+STRAY\r\n", b"+TWO\r\n", b"+THREE\r\n+STRAY\r\n"]
    assert await lines.ask([("PING",)]) == [b"ONE"]
    await asyncio.sleep(0.05)
    assert await lines.ask([("PING",)]) == [b"TWO"]
    assert await lines.ask([("PING",)]) == [b"THREE"]
    await asyncio.sleep(0.05)
    assert await lines.ask([("PING",)]) == [b"PONG"]


async def test_a_server_that_loads_counts_as_gone(odd: tuple[ConnectionPool, list[bytes]]) -> None:
    lines, answers = odd
    answers += [b"-LOADING Redis is loading the dataset in memory\r\n"]
    assert await lines.ask([("PING",)]) == [b"PONG"]
    answers += [b"-LOADING Redis is loading the dataset in memory\r\n"] * 2
    with pytest.raises(redis.exceptions.BusyLoadingError):
        await lines.ask([("PING",)])


@pytest.mark.parametrize(
    "answer",
    [
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-ERR Error running script (call to f_8a): @user_script:29: -READONLY You can't write\r\n",
        b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        b"-CLUSTERDOWN The cluster is down\r\n",
        b"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
    ],
)
async def test_finding_09_an_answer_that_another_server_must_give_ends_the_connection(
    odd: tuple[ConnectionPool, list[bytes]], answer: bytes
) -> None:
    """It was put back into use, and answered the same for ever."""
    lines, answers = odd
    answers += [answer]
    assert await lines.ask([("PING",)]) == [b"PONG"], "asked again over a new connection"
    answers += [answer] * 2
    with pytest.raises(redis.exceptions.ConnectionError, match="cannot be used now"):
        await lines.ask([("PING",)])
    answers += [b"-READONLYISH is another word\r\n"]
    (other,) = await lines.ask([("PING",)])
    assert isinstance(other, redis.exceptions.ResponseError)


async def test_what_is_no_redis_is_an_error_and_the_next_exchange_begins_anew(
    odd: tuple[ConnectionPool, list[bytes]],
) -> None:
    lines, answers = odd
    answers += [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    with pytest.raises(redis.exceptions.InvalidResponse):
        await lines.ask([("PING",)])
    assert await lines.ask([("PING",)]) == [b"PONG"]
