"""Who is an operator of `millrace up`: a client that can read its key, and none because of its address."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
import socketserver
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.main import create_app
from api.settings import ApiSettings
from millrace.settings_loader import free_port
from tests.e2e.conftest import Up
from tests.nginx import nginx
from tests.servers import RedisServer
from tests.service import millrace
from tests.unit.api.admin.test_access import routes

pytestmark = [pytest.mark.e2e, pytest.mark.redis]


class Forwarder(socketserver.BaseRequestHandler):
    """Passes bytes on both ways, like socat, `ssh -R` and `kubectl port-forward`."""

    def handle(self) -> None:
        to: int = self.server.to  # type: ignore[attr-defined]
        with socket.create_connection(("127.0.0.1", to)) as beyond:
            back = threading.Thread(target=copy, args=(beyond, self.request), daemon=True)
            back.start()
            copy(self.request, beyond)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def forwarding(to: int) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forwarder) as server:
        server.daemon_threads, server.to = True, to  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield int(server.server_address[1])
        server.shutdown()


def check_closed(port: int) -> None:
    """Every route of operators that the application has is closed to clients without a key."""
    found = [*routes(create_app(ApiSettings()).app.routes), ("GET", "/admin"), ("GET", "/admin/unknown")]
    assert len(found) > 25
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        assert client.get("/readyz").status_code == 200
        same = {"sec-fetch-site": "same-origin", "origin": f"http://127.0.0.1:{port}"}
        for method, path in found:
            for headers in ({}, same, {"host": "evil.example"}, {"x-forwarded-for": "127.0.0.1"}):
                answer = client.request(method, path, headers=headers, json={})
                assert answer.status_code in ((401, 403) if "host" in headers else (401,)), (method, path)
        rebound = {"host": "evil.example", "origin": "http://evil.example", "sec-fetch-site": "same-origin"}
        answer = client.post("/predict", json={"text": ["a"]}, headers=rebound)
        assert (answer.status_code, answer.json()["code"]) == (403, "host_not_allowed")


def key_of(service: Up) -> str:
    assert service.data_dir is not None
    return (service.data_dir / "operator.key").read_text()


def test_behind_a_proxy_on_the_same_machine_all_clients_were_operators(running_up: Up) -> None:
    check_closed(running_up.port)
    with forwarding(running_up.port) as port:
        check_closed(port)
        key = {"authorization": f"Bearer {key_of(running_up)}"}
        url = f"http://127.0.0.1:{port}/admin/audit"
        assert httpx.get(url, headers=key, trust_env=False).status_code == 200


def test_behind_nginx_as_it_comes_the_console_needs_its_link(running_up: Up, tmp_path: Path) -> None:
    service = running_up
    with nginx(service.port, tmp_path) as port:
        check_closed(port)
        path, _, link = said(service, "console").strip().partition("#link=")
        assert path == f"http://127.0.0.1:{service.port}/console"
        seen = {"origin": f"http://localhost:{port}", "sec-fetch-site": "same-origin"}
        with httpx.Client(base_url=f"http://localhost:{port}", trust_env=False, headers=seen) as browser:
            given = {"authorization": f"Bearer {link}"}
            assert [browser.post("/admin/session", headers=given).status_code for _ in range(2)] == [204, 401]
            assert browser.get("/admin/audit").json()["audit"][0]["operator"] == "admin:local"
            pause = {"waiting": "keep", "for_s": 60}
            assert browser.put("/admin/pauses/bulk", json=pause).status_code == 200
            foreign = {"origin": "http://localhost:1", "sec-fetch-site": "same-site"}
            assert browser.delete("/admin/pauses/bulk", headers=foreign).status_code == 403
            session = browser.cookies[f"millrace-operator-{service.port}"]
    for place in (service.said(), (tmp_path / "access.log").read_text()):
        assert "/admin/session" in place or "begin_session" in place
        assert link not in place
        assert session not in place


def said(service: Up, *words: str, status: int = 0) -> str:
    """What a command prints that is typed by the user who has started the service."""
    home = {**os.environ, "XDG_DATA_HOME": str(service.log.parent / "home")}
    command = millrace(*words, "--url", f"http://localhost:{service.port}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=home)
    assert done.returncode == status, done.stderr
    return done.stdout.replace("localhost", "127.0.0.1") + done.stderr


@pytest.mark.parametrize("keyed", [False, True])
def test_commands_of_operators_read_the_key_by_themselves(up: Callable[..., Up], keyed: bool) -> None:
    digest = "web:" + "a" * 64
    service = up(**({"api_keys": digest, "admin_keys": f"ops:{'b' * 64}"} if keyed else {}))
    assert said(service, "status").startswith("ready ")
    assert "ready" in said(service, "top", "--frames", "1")
    assert "keys removed" in said(service, "forget", "client", "web")
    assert "no API process remembers" in said(service, "trace", "unknown", status=2)
    assert "no publication has a share" in said(service, "publish", "--all", status=2)
    key = key_of(service)
    assert service.data_dir is not None
    files = [service.data_dir / "operator.key", *service.log.parent.glob("home/millrace/operators/*")]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    for process in service.offspring():
        assert key not in " ".join(process.cmdline()) + str(process.environ())
    assert key not in service.said()
    files[1].chmod(0o644)  # other users may have read it, or written it
    assert "requires the key of an operator" in said(service, "forget", "client", "web", status=2)
    service.stop()
    assert [file.exists() for file in files] == [False, False]


def test_without_a_data_directory_commands_find_the_key_too(
    up: Callable[..., Up], redis_servers: Callable[..., RedisServer]
) -> None:
    service = up("--redis-url", redis_servers(bare="--redis-url takes no URL with a password").url)
    assert "keys removed" in said(service, "forget", "client", "web")


def test_on_a_terminal_it_prints_a_link_and_in_a_log_its_command(running_up: Up, tmp_path: Path) -> None:
    assert re.search(
        r"^The console: \S*millrace console --url \S+ prints a link", running_up.said(), re.MULTILINE
    )
    assert "#link=" not in running_up.said()
    ours, theirs = pty.openpty()
    command = millrace(
        "up", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"), "--model", "stub"
    )
    home = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "home")}
    running = subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, env=home, start_new_session=True
    )
    os.close(theirs)
    shown = ""
    try:
        while "The console: " not in shown.rpartition("\n")[0]:
            shown += os.read(ours, 4096).decode()
        link = re.search(r"(http://\S+)/console#link=(\S+) \(works once\)", shown)
        assert link is not None, shown
        given = {"authorization": f"Bearer {link[2]}"}
        statuses = [
            httpx.post(f"{link[1]}/admin/session", headers=given, trust_env=False).status_code for _ in "12"
        ]
        assert statuses == [204, 401]
    finally:
        running.terminate()
        running.wait(timeout=60)
        os.close(ours)
