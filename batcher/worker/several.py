"""Several models in one worker process: a worker for each in a separate thread, and turns to compute.

Each has its own queue, exchange and heartbeat, so lanes, leases and recovery are those of a single model.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batcher.connection.clients import Redis
from batcher.connection.outage import REDIS_ERRORS, reason
from batcher.core.keys import SNAPSHOT_S
from batcher.gc_tuning import collect_dropped
from batcher.models import listing
from batcher.worker.loop import Worker
from batcher.worker.turns import Turns

log = logging.getLogger(__name__)

# How often the models are listed again. They stay listed for an hour.
LIST_EVERY_S = 5.0
# How often the main thread looks for signals. The kernel may hand one to another thread, and the main thread,
# where Python runs the handler, sleeps on.
SIGNALS_S = 0.5


class Repeated(threading.Thread):
    """Calls `work` beside the workers: at once, and then every so many seconds until `stop`."""

    def __init__(self, name: str, every_s: float, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._every_s = every_s
        self._work = work
        self._stopping = threading.Event()

    def run(self) -> None:
        self._work()
        while not self._stopping.wait(self._every_s):
            self._work()

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Listing:
    """Lists the models of this process in the snapshot of the service, from where API processes learn them.

    `clients` are those of the shards of the first model's queue, with the prefix of their keys.
    """

    def __init__(self, names: Sequence[str], clients: Sequence[tuple[Redis, str]]) -> None:
        self.names = [*names]
        self._clients = clients

    def add(self, name: str) -> None:
        """Lists one more model, at once."""
        self.names = [*self.names, name]
        self.list()

    def remove(self, name: str) -> None:
        """Stops listing a model."""
        self.names = [one for one in self.names if one != name]
        for client, prefix in self._clients:
            with contextlib.suppress(*REDIS_ERRORS):  # otherwise it would stay listed for an hour
                client.hdel(f"{prefix}:snapshot", *listing(name))

    def list(self) -> None:
        """Lists the models once, at each shard that answers."""
        fields: Mapping[Any, Any] = {key: end for name in self.names for key, end in listing(name).items()}
        for client, prefix in self._clients if fields else ():
            try:
                pipe = client.pipeline()
                pipe.hset(f"{prefix}:snapshot", mapping=dict(fields))
                pipe.expire(f"{prefix}:snapshot", SNAPSHOT_S)
                pipe.execute()
            except REDIS_ERRORS as error:
                log.debug("could not list the models: %s", reason(error), extra={"action": "models.unlisted"})


class SeveralWorkers:
    """The workers of one process. It ends as a whole: a broken engine needs a new process."""

    def __init__(self, workers: Sequence[Worker], *beside: Repeated) -> None:
        self._workers = list(workers)
        self._beside = beside
        self._threads: list[threading.Thread] = []
        # The threads of workers that were removed, until their memory is freed.
        self._ended: list[threading.Thread] = []
        self._removed: dict[Worker, Callable[[], None]] = {}
        self._errors: list[BaseException] = []
        self._turns = Turns()
        self._stopping = False

    def warm_up(self) -> None:
        """Measures what the forward passes of each model cost. Raises whatever a model raises."""
        for worker in self._workers:
            worker.warm_up()

    def run(self) -> None:
        """Works until `stop` is called, or one of the workers has ended. Raises what that one raised."""
        workers = self._workers
        self._workers = []
        for worker in workers:
            self.add(worker)
        for one in self._beside:
            one.start()
        while threads := [*self._threads]:  # those that are added meanwhile, too
            threads[0].join(SIGNALS_S)
            del threads
            self._free()
        for one in self._beside:
            one.stop()
        if self._errors:
            raise self._errors[0]

    def _free(self) -> None:
        """Frees the memory of workers that were removed."""
        if self._ended:
            self._ended.pop().join()
            collect_dropped()

    def add(self, worker: Worker) -> None:
        """Runs one more worker from now on. As soon as there are two, they take turns."""
        self._workers.append(worker)
        if len(self._workers) > 1:
            for one in self._workers:
                one.turns = self._turns
        thread = threading.Thread(target=self._run, args=(worker,), name=f"model-{len(self._threads)}")
        self._threads.append(thread)
        thread.start()
        if self._stopping:
            worker.stop()

    def remove(self, worker: Worker, ended: Callable[[], None]) -> None:
        """Ends one of the workers, and no other. Calls `ended` in its thread once it has finished."""
        self._removed[worker] = ended
        worker.stop()
        self._workers.remove(worker)

    def stop(self) -> None:
        """Asks all workers to finish their batches. Safe to call from a signal handler."""
        self._stopping = True
        for worker in [*self._workers]:
            worker.stop()

    @property
    def broken(self) -> bool:
        """Whether one of the engines is at fault."""
        return any(worker.broken for worker in self._workers)

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            self._errors.append(error)
        finally:
            self._end(worker)
            self._threads.remove(threading.current_thread())

    def _end(self, worker: Worker) -> None:
        ended = self._removed.pop(worker, None)
        if ended is None:
            self.stop()
        else:
            ended()
            self._ended.append(threading.current_thread())
