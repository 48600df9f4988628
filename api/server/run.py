"""Runs the API: uvicorn on uvloop and httptools, in one process or several that share the port.

A process shuts down in this order:

1. /readyz fails, and responses close their connections.
2. After `quiet_s`, new connections are dropped, and pending ones are accepted.
3. The port closes, and shortly afterwards idle connections.
4. Requests in flight finish, within `drain_s`.
5. The hub closes its connections.

A second Ctrl-C ends the process at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.supervisors import Multiprocess

from api.asgi.tracing import Traced
from api.lifecycle import Lifecycle, SynFilter
from api.main import create_app
from api.server.limits import RESERVE
from api.server.protocol import Connection
from api.settings import ApiSettings
from batcher import gc_tuning, logs, tracing
from batcher.listening import bind

log = logging.getLogger(__name__)

# File descriptors that a process needs besides client connections: Redis connections, and those for probes.
OWN_FILES = 256 + RESERVE
# The least that MILLRACE_MAX_CONNECTIONS can be.
FEWEST = 16
_prefix = re.compile(r"(/[A-Za-z0-9._~-]+)+").fullmatch


class TooFewFiles(Exception):
    """The system allows this process so few open files that it could hardly serve anyone."""


@dataclass(frozen=True, slots=True)
class _Factory:
    """Builds the application in the process that serves it. It is pickled for child processes.

    `syn_filter` is None if several processes share the port: their parent filters for all of them.
    """

    settings: ApiSettings
    metrics_dir: Path | None
    syn_filter: SynFilter | None

    def __call__(self) -> ASGIApp:
        logs.setup(self.settings.log_level, self.settings.log_format)
        lifecycle = Lifecycle(catches_signals=True, quiet_s=self.settings.quiet_s, syn_filter=self.syn_filter)
        app = create_app(self.settings, lifecycle=lifecycle, metrics_dir=self.metrics_dir)
        gc_tuning.freeze_after_startup()
        traced: Any = Traced(app, tracing.setup("api")) if self.settings.tracing else app
        return Proxied(traced, [*self.settings.trust_proxy]) if self.settings.trust_proxy else traced


class Proxied(ProxyHeadersMiddleware):
    """Uses the headers of trusted proxies: X-Forwarded-For, -Proto and -Prefix.

    The last one is the path of the service at the proxy, which removes it: Location and Link begin with it.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        client = scope.get("client")
        if scope["type"] == "http" and client and client[0] in self.trusted_hosts:
            given = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1").rstrip("/")
            if _prefix(given):
                scope["root_path"] = given
                scope["path"] = given + scope["path"]
        await super().__call__(scope, receive, send)


class _Parent(Multiprocess):
    """The parent of several processes. It closes the port when they do.

    Otherwise the kernel would go on accepting connections that no process serves.
    """

    def __init__(self, config: uvicorn.Config, listener: socket.socket, quiet_s: float) -> None:
        super().__init__(config, [listener])
        self._listener = listener
        self._quiet_s = quiet_s

    def terminate_all(self) -> None:
        super().terminate_all()
        time.sleep(self._quiet_s)
        SynFilter(self._listener).drop_new()
        self._listener.close()


def serve(settings: ApiSettings) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises OSError if it cannot bind the port, and SystemExit(3) if startup fails.
    """
    logs.setup(settings.log_level, settings.log_format)
    try:
        connections = _connections(settings.max_connections)
        if settings.tracing:
            tracing.check()
    except (tracing.TracingUnavailable, TooFewFiles) as error:
        log.error("%s", error, extra={"action": "api.unable"})
        sys.exit(3)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(settings.host, settings.port))
        metrics_dir: Path | None = None
        if settings.processes > 1:
            metrics_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-api-")))
            # prometheus_client reads this when the child processes import it.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
        host, port = listener.getsockname()[:2]
        fields = {"host": host, "port": port, "processes": settings.processes}
        log.info("listening", extra={"action": "api.listening", **fields})
        syn_filter = SynFilter(listener) if settings.processes == 1 else None
        config = _config(settings, _Factory(settings, metrics_dir, syn_filter), connections)
        _run(config, listener, settings.quiet_s)
        log.info("stopped", extra={"action": "api.stopped"})


def _run(config: uvicorn.Config, listener: socket.socket, quiet_s: float) -> None:
    # After its shutdown, uvicorn raises the signal that stopped it again.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt):
        if config.workers > 1:
            _Parent(config, listener, quiet_s).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def _config(settings: ApiSettings, factory: _Factory, connections: int) -> uvicorn.Config:
    return uvicorn.Config(
        factory,
        factory=True,
        workers=settings.processes,
        loop="uvloop",
        http=Connection,
        limit_concurrency=connections,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # see `Proxied`
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=2048,
    )


def _connections(wanted: int) -> int:
    """Raises the limit of open files as needed. Returns `wanted`, or fewer if the system limits them.

    Raises TooFewFiles if hardly any would be left.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + OWN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, wanted + OWN_FILES)), hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    left = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft - OWN_FILES)
    if left < FEWEST:
        raise TooFewFiles(
            f"the limit of {soft} open files leaves {max(left, 0)} for connections, and an API needs "
            f"{FEWEST} beside {OWN_FILES} that it opens: raise it (ulimit -n {wanted + OWN_FILES}, "
            "LimitNOFILE= of systemd)"
        )
    if left < wanted:
        message = "the limit of %d open files allows %d connections, fewer than MILLRACE_MAX_CONNECTIONS=%d"
        log.warning(message, soft, left, wanted, extra={"action": "api.connections"})
    return left
