"""Redis clients. Every option is explicit: redis-py's defaults change between releases and hide retry storms.

URL schemes: redis://, rediss://, unix://, and redis+sentinel://[user:password@]host:port,host:port/service[/db]
(rediss+sentinel:// uses TLS to the master and the sentinels; ?ssl_ca_certs=... and redis-py's other ssl_
options apply to both; ?sentinel_password=... is for sentinels that have a separate password).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from batcher.core.outage import elsewhere, lost_to

AsyncRedis = redis.asyncio.Redis
Redis = redis.Redis
# Retry at once only after a lost connection. After a timeout the server may still be running the command.
_RETRIED = (redis.exceptions.ConnectionError,)


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=0.2, base=0.01)


def _options(url: str, timeout_s: float, retry: Any, parser: Any) -> dict[str, Any]:
    tcp = {} if url.startswith("unix://") else {"socket_keepalive": True}
    return {
        **tcp,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, 1.0),
        "health_check_interval": 0,
        "decode_responses": False,
        "protocol": 2,
        "retry": retry,
        "retry_on_error": [],
        "parser_class": _failover_parser(parser),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def _failover_parser(parser: Any) -> Any:
    """A parser that reports a lost connection if the server replies that another server has to be used.

    redis-py and `Pipeline` then close the connection, and the next one resolves the name again.
    """

    class FailoverParser(parser):  # type: ignore[misc]
        @classmethod
        def parse_error(cls, response: str) -> Exception:
            error: Exception = super().parse_error(response)
            return lost_to(error) if elsewhere(error) else error

    return FailoverParser


class _SentinelRedis(redis.asyncio.Redis):
    """A client of the master that also closes the clients of its sentinels."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the master that the sentinels report. Callers wait if all connections are in use."""


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
    retry = Retry(_backoff(), retries, supported_errors=_RETRIED)
    options = _options(url, timeout_s, retry, redis.connection.DefaultParser)
    size = {"max_connections": connections, "timeout": timeout_s}
    if "+sentinel://" in url:
        sentinels, sentinel_options, service, more = _sentinel_parts(url)
        sentinel: Any = redis.Sentinel(sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        client: redis.Redis = sentinel.master_for(
            service, redis.Redis, _SentinelPool, **options, **size, **more
        )
        return client
    return redis.Redis.from_pool(redis.BlockingConnectionPool.from_url(url, **size, **options))


def connect_async(url: str, *, timeout_s: float, retries: int) -> redis.asyncio.Redis:
    """The asyncio version of `connect`, for a `Pipeline`."""
    retry = AsyncRetry(_backoff(), retries, supported_errors=_RETRIED)
    options = _options(url, timeout_s, retry, redis.asyncio.connection.DefaultParser)
    if "+sentinel://" in url:
        sentinels, sentinel_options, service, more = _sentinel_parts(url)
        sentinel: Any = redis.asyncio.Sentinel(sentinels, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
        client: redis.asyncio.Redis = sentinel.master_for(service, _SentinelRedis, **options, **more)
        return client
    return redis.asyncio.Redis.from_url(url, **options)
