"""Publishes what this worker does while it loads a model, which may take minutes the first time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from types import TracebackType
from typing import Self

from batcher.admin.preparing import Preparing, PreparingStore
from batcher.connection.clients import connect
from batcher.connection.outage import REDIS_ERRORS
from batcher.settings import WorkerSettings

# Between two lines. A model that is loaded sooner is not mentioned.
EVERY_S = 1.0


class Announced:
    """While it is open, a thread repeats the `phase` at the first shard. No outage of Redis delays it."""

    def __init__(self, settings: WorkerSettings, reference: str) -> None:
        self._shard = settings.queue_shards[0]
        self._name = settings.name
        self._reference = reference
        self._worker = f"{socket.gethostname()}-{os.getpid()}"
        self._phase = "reading its files"
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preparing", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded.set()
        self._thread.join()

    def phase(self, doing: str) -> None:
        """What the loading does next."""
        self._phase = doing

    def _run(self) -> None:
        if self._loaded.wait(EVERY_S):
            return
        client = connect(self._shard.url, timeout_s=EVERY_S, retries=0, key=self._shard.prefix)
        store = PreparingStore(client, self._name)
        while not self._loaded.is_set():
            seconds = round(time.monotonic() - self._began, 1)
            with contextlib.suppress(*REDIS_ERRORS):
                store.note(Preparing(self._worker, self._reference, seconds, self._phase))
            self._loaded.wait(EVERY_S)
        with contextlib.suppress(*REDIS_ERRORS):
            store.remove(self._worker)
        client.close()
