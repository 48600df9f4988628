"""A small HTTP server on a thread: /metrics, /livez and /readyz for workers and job processes."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from batcher.listening import bind

log = logging.getLogger(__name__)

# Returns the problem, or None if all is well.
Check = Callable[[], str | None]
CLIENT_TIMEOUT_S = 5.0


class ProbeServer(ThreadingHTTPServer):
    """Listens on `host` from its creation until `close`. Raises OSError if the port cannot be bound.

    If `live` fails, the process should be restarted. If `ready` fails, it cannot do its work now.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry, live: Check, ready: Check) -> None:
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()  # which is of IPv4
        self.socket = bind(host, port)
        self.server_port = self.socket.getsockname()[1]
        self.server_activate()
        self.registry = registry
        self.checks = {"/livez": live, "/readyz": ready}
        # A process that this one forks must not keep the port open.
        os.register_at_fork(after_in_child=self.socket.close)
        threading.Thread(target=self.serve_forever, name="probes", daemon=True).start()
        log.info("listening for probes", extra={"action": "probes.listening", "port": self.server_port})

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ProbeServer
    timeout = CLIENT_TIMEOUT_S
    server_version = "millrace"
    sys_version = ""

    def do_GET(self) -> None:  # called by http.server
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(200, kind, encode(self.server.registry))
        elif path in self.server.checks:
            problem = self.server.checks[path]()
            body = {"status": "ok"} if problem is None else {"detail": problem}
            self._answer(200 if problem is None else 503, "application/json", json.dumps(body).encode())
        else:
            self._answer(404, "application/json", b'{"detail":"not found"}')

    def do_HEAD(self) -> None:  # called by http.server
        self.do_GET()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name in http.server
        log.debug(format, *args, extra={"action": "probes.request"})
