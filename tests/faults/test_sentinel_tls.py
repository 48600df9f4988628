"""Finding 20: rediss+sentinel:// speaks TLS to the sentinels too, and checks their certificates."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
import trustme

from batcher.connection.clients import connect, connect_async
from millrace.settings_loader import free_port
from tests.servers import RedisServer, needs_server
from tests.service import Process, wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


@dataclass(frozen=True, slots=True)
class Guarded:
    """A master and its sentinel that speak TLS only. `ca` is the authority of both."""

    port: int
    ca: Path

    def url(self, **options: str) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss+sentinel://:se%20cret@127.0.0.1:{self.port}/service?sentinel_password=watch&{query}"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    binary = needs_server()
    if b"libssl" not in subprocess.run(["ldd", binary], capture_output=True).stdout:
        pytest.skip(f"{binary} is built without TLS")
    authority = trustme.CA()
    chain, ca = tmp_path / "server.pem", tmp_path / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(chain))
    authority.cert_pem.write_to_path(str(ca))
    tls = {"tls-cert-file": chain, "tls-key-file": chain, "tls-ca-cert-file": ca, "tls-auth-clients": "no"}
    master_port, port = free_port(), free_port()
    words = [word for name, value in tls.items() for word in (f"--{name}", str(value))]
    words = ["--tls-port", str(master_port), "--requirepass", "se cret", *words]
    master = RedisServer(binary, words, bare="a Redis with one password for all, as people have")
    master.url = f"unix://:se%20cret@{master.socket}"
    master.start()
    configuration = tmp_path / "sentinel.conf"
    lines = [
        *(f"{name} {value}" for name, value in tls.items()),
        "port 0",
        f"tls-port {port}",
        "tls-replication yes",
        "bind 127.0.0.1",
        f"dir {tmp_path}",
        "requirepass watch",
        f"sentinel monitor service 127.0.0.1 {master_port} 1",
        'sentinel auth-pass service "se cret"',
    ]
    configuration.write_text("\n".join(lines) + "\n")
    sentinel = Process("sentinel", [str(binary), str(configuration), "--sentinel"], {}, tmp_path)

    def watches() -> bool:
        client = redis.Redis("127.0.0.1", port, password="watch", ssl=True, ssl_ca_certs=str(ca))
        try:
            return b"ok" in client.execute_command("SENTINEL", "CKQUORUM", "service").lower()
        except redis.RedisError:
            return False
        finally:
            client.close()

    try:
        wait_until(watches, "the sentinel")
        yield Guarded(port, ca)
    finally:
        sentinel.close()
        master.close()


async def test_finding_20_sentinels_are_spoken_to_with_tls(guarded: Guarded) -> None:
    url = guarded.url(ssl_ca_certs=str(guarded.ca))
    with connect(url, timeout_s=5, retries=1) as client:
        assert client.ping()
    aio = connect_async(url, timeout_s=5, retries=1)
    assert await aio.ping()
    await aio.aclose()


async def test_finding_20_an_authority_that_is_not_theirs_is_refused(
    guarded: Guarded, tmp_path: Path
) -> None:
    """The system's authorities, where none is named, and another one."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    for url in (guarded.url(), guarded.url(ssl_ca_certs=str(other))):
        with connect(url, timeout_s=5, retries=0) as client, pytest.raises(redis.exceptions.ConnectionError):
            client.ping()
        aio = connect_async(url, timeout_s=5, retries=0)
        with pytest.raises(redis.exceptions.ConnectionError):
            await aio.ping()
        await aio.aclose()
