"""A small HTTP server on a thread: /metrics, /livez and /readyz of a process that is no API."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

log = logging.getLogger(__name__)

# None: all is well; otherwise what is not.
Check = Callable[[], str | None]
CLIENT_TIMEOUT_S = 5.0


class ProbeServer(ThreadingHTTPServer):
    """Listens from the start; `close` ends it. Raises OSError when the port cannot be had.

    `live` failing means: restart the process. `ready` failing means: it would not answer now.
    """

    daemon_threads = True

    def __init__(self, port: int, registry: CollectorRegistry, live: Check, ready: Check) -> None:
        super().__init__(("", port), _Handler)
        self.registry = registry
        self.checks = {"/livez": live, "/readyz": ready}
        # A process forked from this one (RQ's) must not keep the port.
        os.register_at_fork(after_in_child=self.socket.close)
        threading.Thread(target=self.serve_forever, name="probes", daemon=True).start()
        log.info("probes", extra={"action": "probes.listening", "port": self.server_port})

    def close(self) -> None:
        """Stops answering."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ProbeServer
    timeout = CLIENT_TIMEOUT_S
    server_version = "millrace"
    sys_version = ""

    def do_GET(self) -> None:  # the name that http.server calls
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

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as http.server has it
        log.debug(format, *args, extra={"action": "probes.request"})
