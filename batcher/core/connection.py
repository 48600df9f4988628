"""Redis clients, with every default stated: redis-py's own change between releases and hide retry storms.

URL schemes: redis://, rediss://, unix://, and redis+sentinel://[user:password@]host:port,host:port/service[/db]
(rediss+sentinel:// with TLS to master and sentinels, ?ssl_ca_certs=... and redis-py's other ssl_ options for
both; ?sentinel_password=... where the sentinels want one of their own).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from batcher.core.outage import elsewhere, lost_to

AsyncRedis = redis.asyncio.Redis
Redis = redis.Redis


def _retry(kind: Any, attempts: int) -> Any:
    # Only a lost connection is worth another try at once. A timeout is not: the server may still be at work.
    lost = (redis.exceptions.ConnectionError,)
    return kind(ExponentialBackoff(cap=0.2, base=0.01), attempts, supported_errors=lost)


def _options(url: str, timeout_s: float, kind: Any, retries: int) -> dict[str, Any]:
    tcp = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return {
        **tcp,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, 1.0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "retry": _retry(kind, retries),
        "retry_on_error": [],
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


class _Checked:
    """A connection that ends with the first answer that says that another server is to be asked.

    To callers it is lost, like any other: a new one is made, and the name looked up again.
    """

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As in the class beside it. Raises ConnectionError for such an answer."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            if not elsewhere(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise lost_to(error) from error


class _Mended:
    """What redis-py's connections for an event loop lack: they end as `_Checked` ones do, and hiredis writes
    commands here too, not only reads.

    A transport that holds nothing takes a command at once, without a task that watches it. And uvloop raises
    RuntimeError where a transport was closed under a connection; redis-py lets it out.
    """

    _writer: asyncio.StreamWriter | None

    def pack_command(self, *args: Any) -> list[bytes]:
        """One command as the protocol wants it. Its name may hold a subcommand: CONFIG GET."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[bytes]:
        """Several commands, in one piece."""
        return [b"".join(piece for args in commands for piece in self.pack_command(*args))]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As in the class beside it, but a lost connection is a ConnectionError on every event loop."""
        try:
            if self._writer is not None and self._writer.transport.get_write_buffer_size() == 0:
                self._writer.writelines(command)
            else:
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:
            raise redis.exceptions.ConnectionError(f"the connection was closed: {error}") from error

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As in the class beside it. Raises ConnectionError where another server is to be asked."""
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            if not elsewhere(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise lost_to(error) from error


def _check(client: redis.Redis) -> redis.Redis:
    pool: Any = client.connection_pool
    pool.connection_class = type("Checked", (_Checked, pool.connection_class), {})
    return client


def _mend(client: redis.asyncio.Redis) -> redis.asyncio.Redis:
    pool: Any = client.connection_pool
    pool.connection_class = type("Mended", (_Mended, pool.connection_class), {})
    return client


class _Guarded(redis.asyncio.Redis):
    """A client of the master that closes the clients of its sentinels, too."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the master that sentinels name; who finds none free waits."""


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """The same for an event loop."""


def _is_true(value: str) -> bool:
    return value.lower() not in ("0", "f", "false", "n", "no")


# What a URL may say of TLS, under redis-py's names.
_TLS_OPTIONS: dict[str, Callable[[str], object]] = {
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_check_hostname": _is_true,
}


def _sentinel_parts(url: str) -> tuple[list[tuple[str, int]], dict[str, Any], str, dict[str, Any]]:
    """Where sentinels are, how to ask them, the name of what they guard, how to ask that."""
    scheme, rest = url.split("+sentinel://", 1)
    secret, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    hosts, _, path = place.partition("/")
    service, _, db = path.partition("/")
    sentinels = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        sentinels.append((parts.hostname or "127.0.0.1", parts.port or 26379))
    asked: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    options: dict[str, Any] = {"db": int(db or 0)}
    tls: dict[str, Any] = {"ssl": True} if scheme == "rediss" else {}
    for name, values in parse_qs(query).items():
        if name in ("sentinel_username", "sentinel_password"):
            asked[name.removeprefix("sentinel_")] = values[-1]
        elif name in _TLS_OPTIONS and tls:
            tls[name] = _TLS_OPTIONS[name](values[-1])
        else:
            known = ", ".join(("sentinel_username", "sentinel_password", *_TLS_OPTIONS))
            raise ValueError(
                f"a {scheme}+sentinel:// URL has no option {name}; with rediss there are {known}"
            )
    if secret:
        user, _, password = secret.rpartition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    return sentinels, asked | tls, service or "mymaster", options | tls


def connect(url: str, *, timeout_s: float, retries: int, connections: int = 8) -> redis.Redis:
    """A synchronous client. `timeout_s` bounds every answer; blocking commands need block + 2 s."""
    options = _options(url, timeout_s, Retry, retries)
    size = {"max_connections": connections, "timeout": timeout_s}
    if "+sentinel://" in url:
        sentinels, asked, service, more = _sentinel_parts(url)
        guard: Any = redis.Sentinel(sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        client: redis.Redis = guard.master_for(service, redis.Redis, _SentinelPool, **options, **size, **more)
        return _check(client)
    return _check(redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(url, **size, **options)))


def connect_async(url: str, *, timeout_s: float, retries: int, connections: int = 8) -> redis.asyncio.Redis:
    """The same for an event loop. Call it from tasks that nobody cancels: each would cost a connection."""
    options = _options(url, timeout_s, AsyncRetry, retries)
    size = {"max_connections": connections, "timeout": timeout_s}
    if "+sentinel://" in url:
        sentinels, asked, service, more = _sentinel_parts(url)
        guard: Any = redis.asyncio.Sentinel(sentinels, sentinel_kwargs=asked)  # type: ignore[no-untyped-call]
        client: redis.asyncio.Redis = guard.master_for(
            service, _Guarded, _AsyncSentinelPool, **options, **size, **more
        )
        return _mend(client)
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, **size, **options)
    return _mend(redis.asyncio.Redis.from_pool(pool))
