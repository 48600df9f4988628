"""The models of a worker process: loads each, says meanwhile what it does, and connects it to its queue.

Models that operators publish are loaded beside what answers, and dropped once they are no longer needed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from batcher.admin.console import Preparing, PreparingStore
from batcher.connection.clients import connect
from batcher.connection.outage import REDIS_ERRORS, reason
from batcher.core.metrics import ByModel
from batcher.core.publications import model_of, publication_queue
from batcher.gc_tuning import collect_dropped
from batcher.models import ELSEWHERE, ModelSpec, is_below_model, is_name
from batcher.probe_server import ProbeServer
from batcher.publishing.publications import PublicationStore, connect_shards
from batcher.settings import WorkerSettings
from batcher.shards import Shard
from batcher.version import process_name
from batcher.worker.cache_writer import CacheWriter, ShardedCacheWriter, connect_writer
from batcher.worker.exchange import WAIT_S
from batcher.worker.heartbeat import HeartbeatQueue
from batcher.worker.loop import Worker
from batcher.worker.observability import Observability, probes
from batcher.worker.queue import Q, Queues, WorkerQueue
from batcher.worker.several import LIST_EVERY_S, Listing, Repeated, SeveralWorkers
from batcher.worker.stats import Remember
from model_store import Classifier, ModelError, ModelInfo, hardware, load

log = logging.getLogger(__name__)
# Between two lines about a model that is loaded. One that is loaded sooner is not mentioned.
ANNOUNCE_S = 1.0
# How often to look for publications.
LOOK_S = 1.0
# Longer than the longest budget of a request, unless the settings of the API say otherwise.
DROP_S = 60.0


def load_one(settings: WorkerSettings, spec: ModelSpec) -> Classifier:
    """Loads one classifier, with the settings of all. Raises ModelError."""
    began = time.monotonic()
    with announced(settings, spec.reference) as on_phase:
        classifier = load(
            spec.reference,
            engine=settings.engine,
            precision=settings.precision,
            threads=settings.threads,
            artefact_dir=settings.artefact_dir.expanduser(),
            stub_batch_ms=settings.stub_batch_ms,
            stub_token_ms=settings.stub_token_ms,
            abstain=settings.abstain,
            text_windows=settings.text_windows,
            max_windows=settings.max_windows,
            max_tokens=settings.max_tokens,
            name=spec.name,
            on_phase=on_phase,
        )
    _report(classifier.info, time.monotonic() - began)
    return classifier


def _report(info: ModelInfo, seconds: float) -> None:
    """Logs which engine this worker runs, the result of its self-test, and the reason for a fallback."""
    where = info.device or "the processor"
    setting = f"{info.engine} {info.precision} in {info.arithmetic}, {info.layout}, on {where}"
    facts: dict[str, object] = {
        "action": "model.loaded",
        "revision": info.revision,
        "arithmetic": info.arithmetic,
        "layout": info.layout,
        "seconds": round(seconds, 2),
    }
    if info.proof is not None:
        facts |= {
            "proof_s": info.proof.seconds,
            "largest_difference": round(info.proof.answers, 6),
            "company_difference": round(info.proof.batched, 6),
        }
    if info.fallback_reason:
        facts["fallback"] = info.fallback_reason
        why = info.fallback_reason
        log.warning("serving with %s instead of the requested configuration: %s", setting, why, extra=facts)
    else:
        log.info("serving with %s", setting, extra=facts)
    if not info.device and info.engine != "stub" and (cards := hardware.cards()):
        log.warning(
            "%s is not used: %s computes on the processor. A torch that was built with CUDA, for the driver "
            "of this machine, would use it: docs/precision.md#nvidia-cards",
            cards[0],
            info.engine,
            extra={"action": "model.card_unused", "cards": len(cards)},
        )


def build_worker(settings: WorkerSettings, instruments: Observability, remember: Remember) -> Worker:
    """A worker with its own clients for each shard: for commands, blocking waits, and the heartbeat."""
    worker_id = process_name()
    shards = settings.queue_shards

    def queue(kind: type[Q], shard: Shard, timeout_s: float, retries: int) -> Q:
        return kind(
            connect(shard.url, timeout_s=timeout_s, retries=retries, key=shard.prefix),
            settings,
            shard,
            worker_id,
            revision=instruments.classifier.info.revision,
            on_round_trip=instruments.metrics.round_trip if instruments.metrics else None,
        )

    def queues(shard: Shard, others: tuple[Queues[HeartbeatQueue], ...] = ()) -> Queues[HeartbeatQueue]:
        commands = queue(WorkerQueue, shard, 2.0, 3)
        waiting = queue(WorkerQueue, shard, WAIT_S + 1.0, 0)
        heartbeat = queue(HeartbeatQueue, shard, max(settings.lease_ms / 4000, 0.5), 1)
        return Queues(commands, waiting, heartbeat, shard.number, others)

    home = crc32(worker_id.encode()) % len(shards)
    others = tuple(queues(shard) for shard in (*shards[home + 1 :], *shards[:home]))
    return Worker(
        instruments.classifier, queues(shards[home], others), settings, remember, instruments.observe
    )


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model of this process. `name` is that of its queue: "" for the first."""

    name: str
    worker: Worker
    instruments: Observability
    cache: CacheWriter | ShardedCacheWriter

    def retire(self) -> None:
        """Call it once the worker has ended for good: removes its keys and closes its connections."""
        for queues in (self.worker.queues, *self.worker.queues.others):
            try:
                queues.heartbeat.expire_keys()
            except REDIS_ERRORS as error:
                log.warning("keys of a revision remain: %s", reason(error), extra={"action": "revision.kept"})
        self.close()

    def close(self) -> None:
        """Closes the connections of a worker that does not run."""
        for queues in (self.worker.queues, *self.worker.queues.others):
            for queue in (queues.commands, queues.waiting, queues.heartbeat):
                queue.close()
        self.cache.close()


class LoadedModels:
    """All models of this process, their publications, and the `worker` that runs them."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self.models = [_build(settings, *one) for one in _load_all(settings).items()]
        shards = settings.queue_shards
        clients = connect_shards(shards, timeout_s=1.0)
        places = zip(clients, (shard.prefix for shard in shards), strict=True)
        self._listing = Listing([one.name for one in self.models if one.name], [*places])
        store = PublicationStore(clients, shards)
        workers = [one.worker for one in self.models]
        self.worker = SeveralWorkers(
            workers,
            Repeated("listing", LIST_EVERY_S, self._listing.list),
            Repeated("publishing", LOOK_S, Publishing(self, store).look_again),
        )

    def warm_up(self) -> None:
        """Measures what the forward passes of each model cost. Raises whatever a model raises."""
        reference = next((one.reference for one in self._settings.model if one.reference != ELSEWHERE), "")
        with announced(self._settings, reference, "measuring what batches cost", self._began):
            self.worker.warm_up()

    @property
    def names(self) -> Sequence[str]:
        """The names of all queues that are served."""
        return [one.name for one in self.models]

    def add(self, model: str, queue: str, reference: str) -> None:
        """Loads a publication of `model` and serves its queue. Raises whatever the model raises."""
        name = next(one.instruments.classifier.info.name for one in self.models if one.name == model)
        with contextlib.ExitStack() as undo:  # this process goes on if one of the steps fails
            classifier = load_one(self._settings, ModelSpec(name, reference))
            undo.callback(classifier.close)
            made = _build(self._settings, queue, classifier)
            undo.callback(made.close)
            made.worker.warm_up()
            undo.pop_all()
        self.models.append(made)
        self.worker.add(made.worker)
        self._listing.add(queue)

    def drop(self, queue: str) -> None:
        """Ends serving a queue. The worker finishes its batch."""
        (dropped,) = [one for one in self.models if one.name == queue]
        self.models.remove(dropped)
        self._listing.remove(queue)
        self.worker.remove(dropped.worker, dropped.retire)

    def probes(self) -> ProbeServer | None:
        """Starts to answer probes and scrapes, if there is a port. Raises OSError if it cannot be bound."""
        if not self._settings.worker_port:
            return None
        registry = CollectorRegistry()
        registry.register(ByModel(self._metrics))
        return probes(
            self._settings.host,
            self._settings.worker_port,
            lambda: [one.worker for one in self.models],
            registry,
        )

    def _metrics(self) -> Mapping[str, Iterable[Metric]]:
        found = ((one.name, one.instruments.metrics) for one in self.models)
        return {name: metrics.registry.collect() for name, metrics in found if metrics is not None}

    def close(self) -> None:
        """Waits until everything is written to the cache, and closes the connections of all workers."""
        for one in self.models:
            one.close()


def _load_all(settings: WorkerSettings) -> Mapping[str, Classifier]:
    """The classifiers by the names of their queues. Raises ModelError."""
    loaded: dict[str, Classifier] = {}
    names: set[str] = set()
    for number, spec in enumerate(settings.model):
        if spec.reference == ELSEWHERE:
            continue
        classifier = load_one(settings, spec)
        name = classifier.info.name
        several = len(settings.model) > 1
        if is_below_model(name) or (several and (name in names or not is_name(name))):
            why = "there are two models of this name" if name in names else "this name cannot stand in a URL"
            raise ModelError(f"{spec.reference} is called {name!r}: {why}; write NAME={spec.reference}.")
        names.add(name)
        loaded[name if number else ""] = classifier
    return loaded


def _build(settings: WorkerSettings, name: str, classifier: Classifier) -> LoadedModel:
    instruments = Observability(classifier, settings)
    own = settings.for_model(name)
    cache = connect_writer(own)
    worker = build_worker(own, instruments, cache)
    if instruments.metrics is not None:
        instruments.metrics.attach(worker)
    return LoadedModel(name, worker, instruments, cache)


@contextlib.contextmanager
def announced(
    settings: WorkerSettings, reference: str, doing: str = "reading its files", began: float | None = None
) -> Iterator[Callable[[str], None]]:
    """While it is open, a thread publishes what the loading of a model does, which may take minutes.

    Yields what is called with each phase after `doing`, which is repeated at the first shard. No outage of
    Redis delays the loading.
    """
    loaded = threading.Event()
    phases = [doing]
    facts = settings, reference, began or time.monotonic(), phases, loaded
    thread = threading.Thread(target=_announce, args=facts, name="preparing", daemon=True)
    thread.start()
    try:
        yield phases.append
    finally:
        loaded.set()
        thread.join()


def _announce(
    settings: WorkerSettings, reference: str, began: float, phases: list[str], loaded: threading.Event
) -> None:
    if loaded.wait(max(began + ANNOUNCE_S - time.monotonic(), 0)):
        return
    shard = settings.queue_shards[0]
    worker = process_name().rpartition("-")[0]
    client = connect(shard.url, timeout_s=ANNOUNCE_S, retries=0, key=shard.prefix)
    store = PreparingStore(client, settings.name)
    while not loaded.is_set():
        seconds = round(time.monotonic() - began, 1)
        with contextlib.suppress(*REDIS_ERRORS):
            store.note(Preparing(worker, reference, seconds, phases[-1]))
        loaded.wait(ANNOUNCE_S)
    with contextlib.suppress(*REDIS_ERRORS):
        store.remove(worker)
    client.close()


class Publishing:
    """Loads what operators publish, and drops what is no longer needed."""

    def __init__(self, models: LoadedModels, store: PublicationStore) -> None:
        self._models = models
        self._publications = store
        self._failures: dict[str, str] = {}
        self._unwanted: dict[str, float] = {}

    def look(self) -> None:
        """Loads missing publications and drops surplus ones. Raises Redis errors."""
        publications = self._publications.read()
        served = set(self._models.names)
        wanted = {
            publication_queue(model, number): (model, reference)
            for model in {model_of(name) for name in served}
            for number, reference in publications.of(model).references.items()
        }
        self._failures = {queue: why for queue, why in self._failures.items() if queue in wanted}
        self._drop([queue for queue in served if "@" in queue and queue not in wanted])
        for queue in wanted.keys() - served:
            new = queue not in self._failures
            if new and self._loads(queue, *wanted[queue]):
                continue
            if new or queue not in publications.failures:  # it may not have been written, or be lost
                self._publications.report(queue, self._failures[queue])

    def _loads(self, queue: str, model: str, reference: str) -> bool:
        """Loads a publication, and keeps why it could not."""
        try:
            self._models.add(model, queue, reference)
        except Exception as error:
            failure = str(error)
        else:
            return True
        log.error("cannot serve the publication: %s", failure, extra={"action": "revision.unable"})
        self._failures[queue] = failure[:500]
        collect_dropped()  # once the error, which refers to what was loaded, is gone
        return False

    def _drop(self, unwanted: Sequence[str]) -> None:
        """Drops publications not needed for a while: until then, earlier requests may wait there."""
        now = time.monotonic()
        self._unwanted = {queue: self._unwanted.get(queue, now) for queue in unwanted}
        for queue, since in self._unwanted.items():
            if now - since >= DROP_S:
                self._models.drop(queue)

    def look_again(self) -> None:
        """As `look`, but raises nothing: the next look may succeed."""
        try:
            with contextlib.suppress(*REDIS_ERRORS):
                self.look()
        except Exception:
            log.exception("could not look for publications", extra={"action": "revision.lost"})
