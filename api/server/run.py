"""Runs the API: uvicorn on uvloop and httptools, in one process or several that share the port.

The end of a process, in order: /readyz says no, answers close their connections -> (`quiet_s`) -> nobody new
comes in, who is inside is taken -> the port closes, a moment later idle connections -> requests in flight, up
to `drain_s` -> the hub and its connections. A second Ctrl-C ends it at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from api.asgi.tracing import Traced
from api.lifecycle import Lifecycle
from api.main import create_app
from api.server.backlog import RESERVE
from api.server.protocol import Connection
from api.server.syn_filter import Door
from api.settings import ApiSettings
from batcher import gc_tuning as garbage
from batcher import logs, tracing

log = logging.getLogger(__name__)

# Files that a process needs beside its connections: those to Redis, and the reserve for probes.
OWN_FILES = 256 + RESERVE


@dataclass(frozen=True, slots=True)
class _Factory:
    """Builds the application inside the process that serves it. Travels to child processes by value.

    A door belongs to the process that has the port for itself; that of several is shut by their parent.
    """

    settings: ApiSettings
    metrics_dir: Path | None
    door: Door | None

    def __call__(self) -> FastAPI | Traced:
        logs.setup(self.settings.log_level, self.settings.log_format)
        lifecycle = Lifecycle(catches_signals=True, quiet_s=self.settings.quiet_s, door=self.door)
        app = create_app(self.settings, lifecycle=lifecycle, metrics_dir=self.metrics_dir)
        garbage.freeze_after_startup()
        return Traced(app, tracing.setup("api")) if self.settings.tracing else app


class _Parent(Multiprocess):
    """Of several processes. Lets go of the port as they do: else the kernel takes connections for nobody."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, quiet_s: float) -> None:
        super().__init__(config, [listener])
        self._listener = listener
        self._quiet_s = quiet_s

    def terminate_all(self) -> None:
        super().terminate_all()
        time.sleep(self._quiet_s)
        Door(self._listener).shut()
        self._listener.close()


def serve(settings: ApiSettings) -> None:
    """Serves until SIGTERM or Ctrl-C.

    Raises OSError when the port cannot be had, SystemExit(3) when the start fails.
    """
    logs.setup(settings.log_level, settings.log_format)
    if settings.tracing:
        try:
            tracing.check()
        except tracing.TracingUnavailable as error:
            log.error("%s", error, extra={"action": "api.unable"})
            sys.exit(3)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port))
        metrics_dir: Path | None = None
        if settings.processes > 1:
            metrics_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millrace-api-")))
            # Child processes import prometheus_client anew, which decides by this where counters live.
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics_dir)
        host, port = listener.getsockname()[:2]
        fields = {"host": host, "port": port, "processes": settings.processes}
        log.info("listening", extra={"action": "api.listening", **fields})
        door = Door(listener) if settings.processes == 1 else None
        _run(_config(settings, _Factory(settings, metrics_dir, door)), listener, settings.quiet_s)
        log.info("stopped", extra={"action": "api.stopped"})


def _run(config: uvicorn.Config, listener: socket.socket, quiet_s: float) -> None:
    # uvicorn raises the signal that stopped it once more, after everything is in order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(KeyboardInterrupt):
        if config.workers > 1:
            _Parent(config, listener, quiet_s).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def _config(settings: ApiSettings, factory: _Factory) -> uvicorn.Config:
    return uvicorn.Config(
        factory,
        factory=True,
        workers=settings.processes,
        loop="uvloop",
        http=Connection,
        limit_concurrency=_connections(settings.max_connections),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        backlog=2048,
    )


def _connections(wanted: int) -> int:
    """As many as wanted, or as many as this process may open; asks the system for as much as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, wanted + OWN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, wanted + OWN_FILES)), hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - OWN_FILES))


def _listen(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener
