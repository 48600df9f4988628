"""Replies of odd servers, each of which must reach its own command, or none."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis

from batcher.connection.clients import connect_async
from batcher.connection.pipeline import Pipeline
from tests.servers import free_port


@pytest.fixture
async def odd() -> AsyncIterator[tuple[Pipeline, list[bytes]]]:
    """A pipeline to a server that answers each PING with the next of these, in pieces; then with PONG.

    An answer that begins with a number comes after as many seconds.
    """
    answers: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while asked := await reader.read(4096):
                answer = answers.pop(0) if b"PING" in asked and answers else b"+PONG\r\n" * asked.count(b"*")
                if answer[:1].isdigit():
                    seconds, _, answer = answer.partition(b" ")
                    await asyncio.sleep(float(seconds))
                for at in range(0, len(answer), 2):
                    writer.write(answer[at : at + 2])
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = connect_async(f"redis://127.0.0.1:{port}/0", timeout_s=1.0, retries=0)
    pipeline = Pipeline(client, retries=1)
    yield pipeline, answers
    await pipeline.close()
    await asyncio.sleep(0.02)  # so that it sees them end
    server.close()


async def test_an_answer_that_nobody_asked_for_is_given_to_nobody(
    odd: tuple[Pipeline, list[bytes]],
) -> None:
    pipeline, answers = odd
    answers += [b"+ONE\r\n+STRAY\r\n", b"+TWO\r\n", b"+THREE\r\n+STRAY\r\n"]
    assert await pipeline.execute("PING") == b"ONE"
    await asyncio.sleep(0.05)
    assert await pipeline.execute("PING") == b"TWO"
    assert await pipeline.execute("PING") == b"THREE"
    await asyncio.sleep(0.05)
    assert await pipeline.execute("PING") == b"PONG"


async def test_a_server_that_loads_counts_as_gone(odd: tuple[Pipeline, list[bytes]]) -> None:
    pipeline, answers = odd
    answers += [b"-LOADING Redis is loading the dataset in memory\r\n"]
    assert await pipeline.execute("PING") == b"PONG"
    answers += [b"-LOADING Redis is loading the dataset in memory\r\n"] * 2
    with pytest.raises(redis.exceptions.BusyLoadingError):
        await pipeline.execute("PING")


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
    odd: tuple[Pipeline, list[bytes]], answer: bytes
) -> None:
    """It was put back into use, and answered the same for ever."""
    pipeline, answers = odd
    answers += [answer]
    assert await pipeline.execute("PING") == b"PONG", "asked again over a new connection"
    answers += [answer] * 2
    with pytest.raises(redis.exceptions.ConnectionError, match="cannot be used now"):
        await pipeline.execute("PING")
    answers += [b"-READONLYISH is another word\r\n"]
    with pytest.raises(redis.exceptions.ResponseError):
        await pipeline.execute("PING")


async def test_what_is_no_redis_is_an_error_and_the_next_exchange_begins_anew(
    odd: tuple[Pipeline, list[bytes]],
) -> None:
    pipeline, answers = odd
    answers += [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    with pytest.raises(redis.exceptions.InvalidResponse):
        await pipeline.execute("PING")
    assert await pipeline.execute("PING") == b"PONG"


async def test_a_reply_is_late_a_timeout_after_its_command_and_not_after_an_earlier_one(
    odd: tuple[Pipeline, list[bytes]],
) -> None:
    """The timeout is a second, and runs since the first command at first."""
    pipeline, answers = odd
    assert await pipeline.execute("PING") == b"PONG"
    await asyncio.sleep(0.6)
    answers += [b"0.6 +LATE\r\n"]
    assert await pipeline.execute("PING") == b"LATE"
    answers += [b"2 +NEVER\r\n"]
    began = asyncio.get_running_loop().time()
    with pytest.raises(redis.exceptions.TimeoutError):
        await pipeline.execute("PING")
    assert asyncio.get_running_loop().time() - began > 0.9
    await asyncio.sleep(1.2)  # so that the server ends its answer


async def test_closing_waits_for_the_last_attempt_to_connect() -> None:
    """A command whose reply is no longer awaited is still tried over a second connection."""
    client = connect_async(f"redis://127.0.0.1:{free_port()}/0", timeout_s=1.0, retries=0)
    pipeline = Pipeline(client, retries=1)
    pipeline.execute("PING").cancel()
    await pipeline.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    late = pipeline.execute("PING")
    assert late.done(), "it does not wait for a connection"
    assert str(late.exception()) == "the connection was closed: by this process"


_ASK = """
import asyncio, sys, uvloop
from batcher.connection.clients import connect_async
from batcher.connection.pipeline import Pipeline

async def ask():
    pipeline = Pipeline(connect_async(sys.argv[1], timeout_s=1, retries=0))
    print(await pipeline.execute("PING"))

uvloop.run(ask())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems show the state of a process in other ways")
def test_a_process_that_was_suspended_took_redis_for_lost() -> None:
    """Its loop runs timers before it reads: the reply has arrived, but the time for it has passed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        command = [sys.executable, "-c", _ASK, url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            connection, _ = server.accept()
            with connection:
                while b"PING" not in (asked := connection.recv(4096)):
                    connection.sendall(b"+OK\r\n" * asked.count(b"*"))
                # Suspended before it waits, it would read first.
                for sent, state in ((0, "S"), (signal.SIGSTOP, "T")):
                    process.send_signal(sent)
                    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] != state:
                        time.sleep(0.001)
                connection.sendall(b"+PONG\r\n")
                time.sleep(1.2)
                process.send_signal(signal.SIGCONT)
                said, _ = process.communicate(timeout=60)
    assert said == b"b'PONG'\n"
