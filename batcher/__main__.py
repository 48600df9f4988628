"""Runs one worker process: loads the model, warms it up, connects to Redis and serves until SIGTERM."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import uuid
from zlib import crc32

from batcher import gc_tuning, logs, tracing
from batcher.core.connection import connect
from batcher.settings import WorkerSettings
from batcher.shards import Shard
from batcher.worker.cache_writer import connect_writer
from batcher.worker.exchange import WAIT_S, Queues, Remember
from batcher.worker.loop import Worker
from batcher.worker.metrics import MeasuredQueue
from batcher.worker.observability import Observability
from batcher.worker.queue import WorkerQueue
from model_store import Classifier, ModelError, ModelInfo, load

log = logging.getLogger(__name__)

EXIT_UNABLE = 2
EXIT_BROKEN = 71
# Longest time that other threads wait for the interpreter while one computes.
SWITCH_S = 0.001


def load_model(settings: WorkerSettings) -> Classifier:
    """Loads the classifier that the settings select. Raises ModelError."""
    began = time.monotonic()
    classifier = load(
        settings.model,
        engine=settings.engine,
        precision=settings.precision,
        threads=settings.threads,
        artefact_dir=settings.artefact_dir.expanduser(),
        stub_batch_ms=settings.stub_batch_ms,
        stub_token_ms=settings.stub_token_ms,
        abstain=settings.abstain,
        text_windows=settings.text_windows,
        max_windows=settings.max_windows,
    )
    _report(classifier.info, time.monotonic() - began)
    return classifier


def _report(info: ModelInfo, seconds: float) -> None:
    """Logs which engine this worker runs, the result of its self-test, and the reason for a fallback."""
    setting = f"{info.engine} {info.precision} in {info.arithmetic}, {info.layout}"
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
            "company_difference": round(info.proof.company, 6),
        }
    if info.fallback_reason:
        facts["fallback"] = info.fallback_reason
        why = info.fallback_reason
        log.warning("serving with %s instead of the requested configuration: %s", setting, why, extra=facts)
    else:
        log.info("serving with %s", setting, extra=facts)


def build_worker(settings: WorkerSettings, instruments: Observability, remember: Remember) -> Worker:
    """A worker with its own clients for each shard: for commands, blocking waits, and the heartbeat."""
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    shards = settings.queue_shards

    def queue(shard: Shard, timeout_s: float, retries: int) -> WorkerQueue:
        made = (MeasuredQueue if instruments.on_round_trip else WorkerQueue)(
            connect(shard.url, timeout_s=timeout_s, retries=retries, key=shard.prefix),
            shard.name,
            worker_id,
            lease_ms=settings.lease_ms,
            max_attempts=settings.max_attempts,
            result_ms=int(settings.result_ttl_s * 1000),
            revision=instruments.classifier.info.revision,
            cache_ms=int(settings.cache_ttl_s * 1000) if settings.cache_here else 0,
            cache_name=shard.cache_name,
            helps=len(shards) > 1,
        )
        if isinstance(made, MeasuredQueue) and instruments.on_round_trip:
            made.on_round_trip = instruments.on_round_trip
        return made

    def queues(shard: Shard, others: tuple[Queues, ...] = ()) -> Queues:
        beat_s = max(settings.lease_ms / 4000, 0.5)
        clients = queue(shard, 2.0, 3), queue(shard, WAIT_S + 1.0, 0), queue(shard, beat_s, 1)
        return Queues(*clients, shard.number, others)

    home = crc32(worker_id.encode()) % len(shards)
    others = tuple(queues(shard) for shard in (*shards[home + 1 :], *shards[:home]))
    return Worker(
        instruments.classifier, queues(shards[home], others), settings, remember, instruments.observe
    )


def main(settings: WorkerSettings | None = None) -> int:
    """Runs one worker until SIGTERM or SIGINT. Returns the exit status.

    Status 2 means that the worker cannot start, 71 that its engine broke and the process must be restarted.
    """
    settings = settings or WorkerSettings()
    logs.setup(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_S)
    try:
        if settings.tracing:
            tracing.setup("worker")
        instruments = Observability(load_model(settings), settings)
        cache = connect_writer(settings)
        worker = build_worker(settings, instruments, cache)
        instruments.attach(worker)
    except (ModelError, tracing.TracingUnavailable) as error:
        log.error("%s", error, extra={"action": "worker.unable"})
        return EXIT_UNABLE
    except OSError as error:
        log.error("Cannot bind port %d: %s", settings.worker_port, error, extra={"action": "worker.unable"})
        return EXIT_UNABLE
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: worker.stop())
    try:
        worker.warm_up()
    except Exception as error:
        log.error("Warming up the model failed: %s", error, extra={"action": "worker.unable"})
        return EXIT_UNABLE
    instruments.begin()
    gc_tuning.freeze_after_startup()
    worker.run()
    cache.close()
    instruments.close()
    return EXIT_BROKEN if worker.broken else 0


if __name__ == "__main__":
    sys.exit(main())
