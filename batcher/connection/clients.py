"""Redis clients. Every option is explicit: redis-py's defaults change between releases and hide retry storms.

URL schemes: redis://, rediss://, unix://, redis+cluster://[user:password@]host:port,host:port, and
redis+sentinel://[user:password@]host:port,host:port/service[/db] (rediss+sentinel:// uses TLS to the master
and the sentinels; ?ssl_ca_certs=... and redis-py's other ssl_ options apply to both; ?sentinel_password=...
is for sentinels that have a separate password).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.driver_info import DriverInfo
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from batcher.connection import cluster
from batcher.connection.outage import elsewhere, lost_to, moved
from batcher.connection.redis_url import is_cluster, is_sentinel, sentinel_parts

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
        "parser_class": _failover_parser(parser, follows=is_cluster(url)),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        # Otherwise each connection parses the metadata of redis-py for its version, in two milliseconds.
        "driver_info": DriverInfo(lib_version=redis.__version__),
    }


def _failover_parser(parser: Any, *, follows: bool) -> Any:
    """A parser that reports a lost connection if the server replies that another server has to be used.

    redis-py and `Pipeline` then close the connection, and the next one resolves the name again, or, if it
    `follows` the slots of a cluster, finds the node again.
    """

    class FailoverParser(parser):  # type: ignore[misc]
        @classmethod
        def parse_error(cls, response: str) -> Exception:
            error: Exception = super().parse_error(response)
            if elsewhere(error):
                _Failovers.count += 1
            return lost_to(error) if elsewhere(error) or (follows and moved(error)) else error

    return FailoverParser


class _Failovers:
    """How often a server has replied to this process that another one has to be used."""

    count = 0


def _left_on_failover(connections: Any) -> Any:
    """Connections of a pool that are opened again after such a reply to any of them.

    A server that has become a replica refuses writes, but answers reads forever.
    """

    class LeftOnFailover(connections):  # type: ignore[misc]
        _opened_at: int | None = None

        def disconnect(self, *args: Any, **options: Any) -> None:
            self._opened_at = None
            super().disconnect(*args, **options)

        def can_read(self, timeout: float = 0) -> bool:
            """Whether there is data. A pool calls it before each use, and reopens a connection that fails."""
            if self._opened_at is None:
                self._opened_at = _Failovers.count
            if self._opened_at != _Failovers.count:
                raise redis.exceptions.ConnectionError("another server may have to be used by now")
            return bool(super().can_read(timeout))

    return LeftOnFailover


def leave_replica(client: redis.Redis, key: str) -> None:
    """Makes sure that the server of a client accepts writes, before it is believed that a hash is missing.

    Removes a field that no hash has, which a replica refuses; its connections are then opened again.
    """
    client.hdel(key, "-")


def server_time_s(client: redis.Redis) -> float:
    """The time by the clock of a server, in seconds since 1970."""
    seconds, micros = client.time()
    return float(seconds) + micros / 1e6


def round_trip(
    client: Any, commands: Sequence[Sequence[Any]], answered: Callable[[Any], None] = lambda reply: None
) -> list[Any]:
    """Sends commands in one write. Returns the replies, errors among them; each is `answered` as it arrives.

    A pipeline of redis-py takes the process as long again as all of this (decision 0008).
    """
    packed = b"".join([hiredis.pack_command(tuple(words)) for words in commands])
    pool = client.connection_pool
    connection = pool.get_connection()

    def attempt() -> list[Any]:
        connection.send_packed_command((packed,))
        replies = []
        for _ in commands:
            replies.append(reply := _next_reply(connection))
            answered(reply)
        return replies

    try:
        replies: list[Any] = connection.retry.call_with_retry(attempt, lambda error: connection.disconnect())
    except BaseException:
        connection.disconnect()  # the next command would take a reply that is still to come for its own
        raise
    finally:
        pool.release(connection)
    return replies


def _next_reply(connection: Any) -> Any:
    """A reply, or the error that it is: without its frames, which would keep all commands, in a cycle."""
    try:
        return connection.read_response()
    except redis.exceptions.ResponseError as error:
        return error.with_traceback(None)


class _SentinelRedis(redis.Redis):
    """A client of the master that also closes the clients of its sentinels."""

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


class _AsyncSentinelRedis(redis.asyncio.Redis):
    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


class _SentinelPool(redis.sentinel.SentinelConnectionPool, redis.BlockingConnectionPool):
    """Connections to the master that the sentinels report. Callers wait if all connections are in use."""


class _ClosesOnTimeout:
    """With sentinels, redis-py keeps a connection whose reply is late, and the next command would get it."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        return super().read_response(*args, **{"disconnect_on_error": True, **options})  # type: ignore[misc]


class _SentinelConnection(_ClosesOnTimeout, redis.sentinel.SentinelManagedConnection):
    pass


class _SentinelSSLConnection(_ClosesOnTimeout, redis.sentinel.SentinelManagedSSLConnection):
    pass


def connect(url: str, *, timeout_s: float, retries: int, connections: int = 8, key: str = "") -> redis.Redis:
    """A synchronous client. `timeout_s` limits every reply; a blocking command needs its block time + 2 s.

    In a cluster, it is a client of the node that has the slot of `key`.
    """
    retry = Retry(_backoff(), retries, supported_errors=_RETRIED)
    options = _options(url, timeout_s, retry, redis.connection.DefaultParser)
    size = {"max_connections": connections, "timeout": timeout_s}
    if is_sentinel(url):
        sentinels, own, service, more = sentinel_parts(url)
        own["retry"] = Retry(NoBackoff(), 0)  # the next sentinel is the retry
        sentinel: Any = redis.Sentinel(sentinels, sentinel_kwargs=own)  # type: ignore[no-untyped-call]
        more["connection_class"] = _SentinelSSLConnection if more.get("ssl") else _SentinelConnection
        client: redis.Redis = sentinel.master_for(
            service, _SentinelRedis, _SentinelPool, **options, **size, **more
        )
        return client
    if is_cluster(url):
        more = cluster.options(url, key, asynchronous=False)
        pool: Any = redis.BlockingConnectionPool
        return redis.Redis.from_pool(pool(**size, **options, **more))
    single = redis.BlockingConnectionPool.from_url(url, **size, **options)
    single.connection_class = _left_on_failover(single.connection_class)
    return redis.Redis.from_pool(single)


def connect_async(url: str, *, timeout_s: float, retries: int, key: str = "") -> redis.asyncio.Redis:
    """The asyncio version of `connect`, for a `Pipeline`."""
    retry = AsyncRetry(_backoff(), retries, supported_errors=_RETRIED)
    options = _options(url, timeout_s, retry, redis.asyncio.connection.DefaultParser)
    if is_sentinel(url):
        sentinels, own, service, more = sentinel_parts(url)
        own["retry"] = none = AsyncRetry(NoBackoff(), 0)
        sentinel: Any = redis.asyncio.Sentinel(sentinels, sentinel_kwargs=own)  # type: ignore[no-untyped-call]
        more["retry"] = none  # the Pipeline does, which would ask all sentinels twice as often
        client: redis.asyncio.Redis = sentinel.master_for(service, _AsyncSentinelRedis, **options | more)
        return client
    if is_cluster(url):
        more = cluster.options(url, key, asynchronous=True)
        return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**options, **more))
    return redis.asyncio.Redis.from_url(url, **options)
