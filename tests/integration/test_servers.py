"""The harness itself: what the other tests rely on when they kill, pause and restart a server."""

from __future__ import annotations

import pytest
import redis

from tests.conftest import FakeRedis
from tests.servers import RedisServer, check_reload, needs_rights_to_load

pytestmark = pytest.mark.redis


def test_a_killed_server_comes_back_with_what_it_knew(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("k", "v")
    redis_server.restart()
    with redis_server.client() as client:
        assert client.get("k") == b"v"


def test_an_emptied_server_comes_back_at_the_same_address(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.set("k", "v")
    redis_server.restart(empty=True)
    with redis_server.client() as client:
        assert client.get("k") is None


def test_a_paused_server_accepts_and_does_not_answer(redis_server: RedisServer) -> None:
    redis_server.pause()
    with (
        redis.Redis.from_url(redis_server.url, socket_timeout=0.2) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.ping()
    redis_server.resume()
    with redis_server.client() as client:
        assert client.ping()


def test_a_server_takes_options_and_a_port(redis_servers) -> None:
    server = redis_servers("--maxmemory", "4mb", tcp=True)
    assert server.url.startswith("redis://admin:admin@127.0.0.1:")
    with server.client() as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(4 * 1024**2)}


async def test_both_clients_of_the_fake_see_one_server(fake_redis: FakeRedis) -> None:
    await fake_redis.aio.set("k", "v")
    assert fake_redis.sync.get("k") == b"v"
    assert fake_redis.sync.eval("return ARGV[1]", 0, "lua") == b"lua"


def test_what_redis_would_not_load_again_fails_a_test(redis_servers) -> None:
    """As every test of a script does, on a real server: the rights of `default` decide what is loaded."""
    needs_rights_to_load()
    with redis_servers("--enable-debug-command", "local").client() as client:
        client.eval("redis.call('SET', 'k', 'v') return redis.call('RPUSH', 'l', 'v')", 0)
        check_reload(client)
        client.acl_setuser("default", categories=["-@all"])
        with pytest.raises(AssertionError):
            check_reload(client)
