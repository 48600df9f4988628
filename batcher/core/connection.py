"""Redis clients. Every option is explicit: redis-py's defaults change between releases and hide retry storms.

URL schemes: redis://, rediss://, unix://, and redis+sentinel://[user:password@]host:port,host:port/service[/db]
(rediss+sentinel:// uses TLS to the master and the sentinels; ?ssl_ca_certs=... and redis-py's other ssl_
options apply to both; ?sentinel_password=... is for sentinels that have a separate password).
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
    # Retry at once only after a lost connection. After a timeout the server may still be running the command.
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


class _FailoverMixin:
    """Closes the connection when the server replies that another server has to be used.

    Callers see a lost connection: they open a new one, which resolves the name again.
    """

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ConnectionError for such a reply."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            if not elsewhere(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise lost_to(error) from error


class _HiredisPackingMixin:
    """Adds to redis-py's asyncio connections what `_FailoverMixin` does, and packing of commands by hiredis.

    If the transport's buffer is empty, a command is written directly, without a task that enforces a timeout.
    uvloop raises RuntimeError if the transport of a connection was closed, which redis-py does not handle.
    """

    _writer: asyncio.StreamWriter | None

    def pack_command(self, *args: Any) -> list[bytes]:
        """Packs one command. Its name may include a subcommand, such as CONFIG GET."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> list[bytes]:
        """Packs several commands into one buffer."""
        return [b"".join(piece for args in commands for piece in self.pack_command(*args))]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Raises ConnectionError for a lost connection on every event loop."""
        try:
            if self._writer is not None and self._writer.transport.get_write_buffer_size() == 0:
                self._writer.writelines(command)
            else:
                await super().send_packed_command(command, check_health)  # type: ignore[misc]
        except RuntimeError as error:
            raise redis.exceptions.ConnectionError(f"the connection was closed: {error}") from error

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ConnectionError if another server has to be used."""
        try:
            return await super().read_response(*args, **kwargs)  # type: ignore[misc]
        except redis.exceptions.ResponseError as error:
            if not elsewhere(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise lost_to(error) from error


def _follow_failover(client: redis.Redis) -> redis.Redis:
    pool: Any = client.connection_pool
    pool.connection_class = type("FailoverConnection", (_FailoverMixin, pool.connection_class), {})
    return client


def _pack_with_hiredis(client: redis.asyncio.Redis) -> redis.asyncio.Redis:
    pool: Any = client.connection_pool
    pool.connection_class = type("HiredisConnection", (_HiredisPackingMixin, pool.connection_class), {})
    return client


class _SentinelRedis(redis.asyncio.Redis):
    """A client of the master that also closes the clients of its sentinels."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the master that the sentinels report. Callers wait if all connections are in use."""


class _AsyncSentinelPool(redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.BlockingConnectionPool):
    """The asyncio version of `_SentinelPool`."""


def _is_true(value: str) -> bool:
    return value.lower() not in ("0", "f", "false", "n", "no")


# TLS options that a URL may set, by their names in redis-py.
_TLS_OPTIONS: dict[str, Callable[[str], object]] = {
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_check_hostname": _is_true,
}


def _sentinel_parts(url: str) -> tuple[list[tuple[str, int]], dict[str, Any], str, dict[str, Any]]:
    """The sentinels' addresses and options, then the name of the service and the options of its master."""
    scheme, rest = url.split("+sentinel://", 1)
    secret, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    hosts, _, path = place.partition("/")
    service, _, db = path.partition("/")
    sentinels = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        sentinels.append((parts.hostname or "127.0.0.1", parts.port or 26379))
    sentinel_options: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    options: dict[str, Any] = {"db": int(db or 0)}
    tls: dict[str, Any] = {"ssl": True} if scheme == "rediss" else {}
    for name, values in parse_qs(query).items():
        if name in ("sentinel_username", "sentinel_password"):
            sentinel_options[name.removeprefix("sentinel_")] = values[-1]
        elif name in _TLS_OPTIONS and tls:
            tls[name] = _TLS_OPTIONS[name](values[-1])
        else:
            known = ", ".join(("sentinel_username", "sentinel_password", *_TLS_OPTIONS))
            raise ValueError(
                f"a {scheme}+sentinel:// URL has no option {name}; rediss+sentinel:// supports {known}"
            )
    if secret:
        user, _, password = secret.rpartition(":")
        options |= {"username": unquote(user) or None, "password": unquote(password)}
    return sentinels, sentinel_options | tls, service or "mymaster", options | tls


def connect(url: str, *, timeout_s: float, retries: int, connections: int = 8) -> redis.Redis:
    """A synchronous client. `timeout_s` limits every reply; a blocking command needs its block time + 2 s."""
    options = _options(url, timeout_s, Retry, retries)
    size = {"max_connections": connections, "timeout": timeout_s}
    if "+sentinel://" in url:
        sentinels, sentinel_options, service, more = _sentinel_parts(url)
        sentinel: Any = redis.Sentinel(sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        client: redis.Redis = sentinel.master_for(
            service, redis.Redis, _SentinelPool, **options, **size, **more
        )
        return _follow_failover(client)
    return _follow_failover(
        redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(url, **size, **options))
    )


def connect_async(url: str, *, timeout_s: float, retries: int, connections: int = 8) -> redis.asyncio.Redis:
    """The asyncio version of `connect`. Use it from tasks that are not cancelled: that costs a connection."""
    options = _options(url, timeout_s, AsyncRetry, retries)
    size = {"max_connections": connections, "timeout": timeout_s}
    if "+sentinel://" in url:
        sentinels, sentinel_options, service, more = _sentinel_parts(url)
        sentinel: Any = redis.asyncio.Sentinel(sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        client: redis.asyncio.Redis = sentinel.master_for(
            service, _SentinelRedis, _AsyncSentinelPool, **options, **size, **more
        )
        return _pack_with_hiredis(client)
    pool = redis.asyncio.BlockingConnectionPool.from_url(url, **size, **options)
    return _pack_with_hiredis(redis.asyncio.Redis.from_pool(pool))
