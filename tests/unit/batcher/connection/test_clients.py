"""Clients meet what event loops do to them."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
import redis
import redis.asyncio

from batcher.connection.clients import connect, connect_async
from batcher.connection.outage import REDIS_ERRORS, Outage, reason
from batcher.connection.pipeline import Pipeline
from batcher.connection.redis_url import check_url, sentinel_parts
from tests.servers import free_port


def test_a_password_of_odd_characters_is_decoded() -> None:
    client = connect_async("redis://user:p%40ss%2Fword@127.0.0.1:1/3", timeout_s=1, retries=0)
    kwargs = client.connection_pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("user", "p@ss/word", 3)


@pytest.mark.parametrize(
    ("scheme", "reply", "is_lost"),
    [
        ("redis", "READONLY You can't write against a read only replica.", True),
        ("redis", "MOVED 1 other:6379", False),
        ("redis+cluster", "MOVED 1 other:6379", True),
        ("redis+cluster", "WRONGTYPE Operation against a key", False),
    ],
)
def test_only_a_client_of_a_cluster_follows_its_slots(scheme: str, reply: str, is_lost: bool) -> None:
    client = connect_async(f"{scheme}://host:6379", timeout_s=1, retries=0, key="{millrace}")
    error = client.connection_pool.connection_kwargs["parser_class"].parse_error(reply)
    assert isinstance(error, redis.ConnectionError) == is_lost


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("make", [connect, connect_async])
def test_each_new_connection_parsed_the_metadata_of_redis_py(
    make: Any, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(f"{scheme}://127.0.0.1:1", timeout_s=1, retries=0)
    monkeypatch.setattr("redis.utils.get_lib_version", Mock(side_effect=AssertionError))
    assert client.connection_pool.make_connection().driver_info.lib_version == redis.__version__


SENTINELS = "redis+sentinel://:se%20cret@127.0.0.1:1,127.0.0.1:2/service/3?sentinel_password=of%20theirs"


def test_the_service_of_sentinels_is_mymaster_unless_the_url_names_another() -> None:
    names = [sentinel_parts(f"redis+sentinel://a:1,b:2{path}")[2] for path in ("", "/", "/other", "/other/1")]
    assert names == ["mymaster", "mymaster", "other", "other"]


def test_clients_of_a_sentinel_use_its_secrets_and_a_bounded_pool_that_waits() -> None:
    client = connect(SENTINELS, timeout_s=1, retries=0, connections=3)
    assert isinstance(client.connection_pool, redis.BlockingConnectionPool)
    assert (client.connection_pool.max_connections, client.connection_pool.timeout) == (3, 1)
    for pool in (client.connection_pool, connect_async(SENTINELS, timeout_s=1, retries=0).connection_pool):
        kwargs = pool.connection_kwargs
        assert (kwargs["password"], kwargs["db"]) == ("se cret", 3)
        manager = pool.sentinel_manager  # type: ignore[union-attr]
        assert [asked.connection_pool.connection_kwargs["password"] for asked in manager.sentinels] == [
            "of theirs"
        ] * 2


@pytest.mark.parametrize("make", [connect, connect_async])
async def test_a_client_closes_its_connections_and_those_of_its_sentinels(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(SENTINELS, timeout_s=1, retries=0)
    name, double = ("close", Mock) if make is connect else ("aclose", AsyncMock)
    pool = client.connection_pool
    closing = [double() for _ in range(3)]
    monkeypatch.setattr(pool, "disconnect", closing[0])
    for asked, close in zip(pool.sentinel_manager.sentinels, closing[1:], strict=True):
        monkeypatch.setattr(asked, name, close)
    closed = getattr(client, name)()
    if make is connect_async:
        await closed
    assert [close.call_count for close in closing] == [1, 1, 1]


@pytest.mark.parametrize("first", ["refuses", "is silent"])
@pytest.mark.parametrize("make", [connect, connect_async])
async def test_a_dead_sentinel_held_up_each_new_connection(make: Any, first: str) -> None:
    """redis-py asked it eleven times, and then all of them again: it took 13 to 77 s."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if first == "is silent" else free_port()
        url = f"redis+sentinel://127.0.0.1:{port},127.0.0.1:{free_port()}/service"
        client = make(url, timeout_s=1, retries=1)
        ask = Pipeline(client, retries=1).execute if make is connect_async else client.execute_command
        began = time.monotonic()
        try:
            await asyncio.ensure_future(ask("PING"))
        except redis.exceptions.ConnectionError:
            took_s = time.monotonic() - began
        else:
            raise AssertionError("there is no master")
    assert took_s < (1 if first == "refuses" else 2)


TLS = "ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_check_hostname=false"


@pytest.mark.parametrize("make", [connect, connect_async])
async def test_finding_20_tls_is_for_the_master_and_for_its_sentinels(make: Any) -> None:
    client = make(f"rediss+sentinel://127.0.0.1:1,127.0.0.1:2/service?{TLS}", timeout_s=1, retries=0)
    pool = client.connection_pool
    pools = [pool, *(sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels)]
    assert len(pools) == 3
    for one in pools:
        assert "SSL" in one.connection_class.__name__
        kwargs = one.connection_kwargs
        assert [kwargs[f"ssl_{name}"] for name in ("ca_certs", "certfile", "keyfile", "check_hostname")] == [
            "/ca.pem",
            "/c.pem",
            "/k.pem",
            False,
        ]


@pytest.mark.parametrize(
    "url", ["rediss+sentinel://h:1/m?ssl_ca_cert=/ca.pem", "redis+sentinel://h:1/m?ssl_ca_certs=/ca.pem"]
)
def test_finding_20_an_option_that_would_be_ignored_is_refused(url: str) -> None:
    scheme = re.escape(url.partition(":")[0])
    advice = rf"^a {scheme}:// URL does not support option ssl_ca_certs?; rediss\+sentinel:// supports "
    with pytest.raises(ValueError, match=advice):
        connect(url, timeout_s=1, retries=0)


PLAIN = "db=1&username=u&password=p&client_name=c&socket_timeout=0.5&socket_connect_timeout=2"


@pytest.mark.parametrize("make", [connect, connect_async])
@pytest.mark.parametrize(
    "url",
    [
        f"unix:///a.sock?{PLAIN}",
        f"redis://a/?{PLAIN}&socket_keepalive=true",
        f"rediss://a/?{PLAIN}&socket_keepalive=true&{TLS}&ssl_ca_path=/c&ssl_cert_reqs=none",
    ],
)
def test_an_option_that_is_accepted_is_one_of_the_connection(
    url: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that redis-py does not know made each connection fail, as if Redis were unavailable."""
    monkeypatch.setattr("batcher.connection.redis_url._check_files", lambda options: None)
    check_url(url)
    pool = make(url, timeout_s=1, retries=0).connection_pool
    connection = pool.connection_class(**pool.connection_kwargs)
    assert (connection.db, connection.client_name, connection.socket_timeout) == (1, "c", 0.5)


@pytest.mark.parametrize(
    "url",
    [
        "redis://service:hunter2@127.0.0.1:1/0",
        "rediss://service:hunter2@127.0.0.1:1/0",
        "redis://service:hunter2@no.such.host.invalid:1/0",
        "redis+sentinel://service:hunter2@127.0.0.1:1/service?sentinel_password=hunter3",
        "unix:///tmp/none-of-that-name?password=hunter2",
    ],
)
async def test_an_outage_names_neither_the_address_nor_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    aio, sync = (make(url, timeout_s=1, retries=0) for make in (connect_async, connect))
    with pytest.raises(REDIS_ERRORS) as one:
        await aio.ping()
    with pytest.raises(REDIS_ERRORS) as other:
        sync.ping()
    for error in (one.value, other.value):
        Outage().lost(error)
    await aio.aclose()
    sync.close()
    assert len(caplog.records) == 2
    for secret in ("hunter", "127.0.0.1", "invalid", "none-of", "service:"):
        assert secret not in caplog.text


def test_an_outage_says_once_more_why_if_redis_answers_by_then(caplog: pytest.LogCaptureFixture) -> None:
    """After a failover, the new master did not know the password: the log had only the end of the old one."""
    outage = Outage()
    errors = redis.exceptions
    wrong = errors.AuthenticationError("invalid username-password pair or user is disabled.")
    seen = [errors.ConnectionError("reset"), errors.TimeoutError("late"), wrong, wrong]
    seen += [errors.ConnectionError("reset"), wrong, errors.OutOfMemoryError("OOM command not allowed")]
    for error in seen:
        outage.lost(error)
    outage.found()
    outage.lost(errors.ConnectionError("reset"))
    outage.lost(wrong)
    why = [record.getMessage().rpartition("unavailable: ")[2] for record in caplog.records]
    full = "OutOfMemoryError: OOM command not allowed"
    again = "redis is available again"
    once_more = ["ConnectionError", "AuthenticationError"]
    assert why == ["ConnectionError", "AuthenticationError", full, again, *once_more]
    assert (outage.count, outage.reason) == (2, "AuthenticationError")


def test_an_outage_says_why() -> None:
    client = connect("redis://127.0.0.1:1/0", timeout_s=1, retries=0)
    with pytest.raises(REDIS_ERRORS) as lost:
        client.ping()
    assert reason(lost.value) == "ConnectionError: Connection refused"
    assert reason(redis.exceptions.TimeoutError("Timeout connecting to 10.0.0.7:6379")) == "TimeoutError"
    full = redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")
    assert reason(full) == "OutOfMemoryError: command not allowed when used memory > 'maxmemory'."
    moved = redis.exceptions.ResponseError("MOVED 3999 10.0.0.7:6379")
    assert reason(moved) == "ResponseError: MOVED 3999 ..."


@pytest.mark.parametrize("scheme", ["rediss://h/", "rediss+sentinel://h:1/m", "rediss+cluster://h:1"])
@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs is none, optional or required, and not CERT_NONE"),
        ("ssl_ca_certs=/no/ca.pem", "ssl_ca_certs=/no/ca.pem cannot be loaded: No such file or directory"),
        ("ssl_ca_certs={path}", "ssl_ca_certs={path} cannot be loaded: NO_CERTIFICATE_OR_CRL_FOUND"),
        (
            "ssl_certfile={path}&ssl_keyfile=/no/key",
            "ssl_certfile={path} with ssl_keyfile=/no/key cannot be loaded",
        ),
        ("ssl_keyfile={path}", "ssl_keyfile needs ssl_certfile"),
    ],
)
def test_an_option_that_redis_py_checks_when_it_connects_is_checked_at_the_start(
    scheme: str, option: str, why: str, tmp_path: Path
) -> None:
    """A process started, and logged for ever that Redis was unavailable: RedisError."""
    path = tmp_path / "empty.pem"
    path.touch()
    with pytest.raises(ValueError, match=re.escape(why.format(path=path))):
        check_url(f"{scheme}?{option.format(path=path)}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (redis.exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "(MISCONF)"),
        (redis.exceptions.ResponseError("ERR Error running script: -MISCONF Redis is"), "(MISCONF)"),
        (
            redis.exceptions.ResponseError(
                "Command # 1 (HSET k f v) of pipeline caused error: MISCONF Redis is"
            ),
            "(MISCONF)",
        ),
        (redis.exceptions.ResponseError("BUSY Redis is busy running a script."), "SCRIPT KILL"),
        (redis.exceptions.ConnectionError("BUSY waiting"), "Redis does not answer"),
        (redis.exceptions.OutOfMemoryError("OOM command not allowed"), "Redis is full"),
    ],
)
def test_clients_were_told_that_redis_did_not_answer_while_it_did(error: Exception, said: str) -> None:
    outage = Outage()
    outage.lost(error)
    assert said in outage.said
