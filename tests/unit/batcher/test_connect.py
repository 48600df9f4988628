"""Clients meet what event loops do to them."""

from __future__ import annotations

import pytest
import redis.asyncio

from batcher.connect import connect_async


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:1/0", "rediss://127.0.0.1:1/0", "unix:///tmp/none", "redis+sentinel://127.0.0.1:1/m"],
)
async def test_a_transport_closed_under_a_connection_is_a_lost_connection(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by chaos: uvloop's RuntimeError became a 500 of /predict, and could have ended the hub."""

    async def closed(*_: object, **__: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    monkeypatch.setattr(redis.asyncio.connection.AbstractConnection, "send_packed_command", closed)
    client = connect_async(url, timeout_s=1, retries=0)
    connection = client.connection_pool.make_connection()
    with pytest.raises(redis.exceptions.ConnectionError, match="was closed"):
        await connection.send_packed_command([b"PING"])
    await client.aclose()


def test_a_password_of_odd_characters_is_decoded() -> None:
    client = connect_async("redis://user:p%40ss%2Fword@127.0.0.1:1/3", timeout_s=1, retries=0)
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("user", "p@ss/word", 3)
