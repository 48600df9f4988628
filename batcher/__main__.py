"""`python -m batcher`: runs a worker with settings from the environment. `millrace worker` has options, too.

It loads its models, warms them up, connects to Redis and serves until SIGTERM.
"""

from __future__ import annotations

import logging
import signal
import sys
from argparse import ArgumentParser

from batcher import gc_tuning, logs, tracing
from batcher.settings import WorkerSettings
from batcher.worker.building import LoadedModels
from model_store import ModelError
from model_store.errors import lacks_memory

log = logging.getLogger(__name__)

EXIT_UNABLE = 2
EXIT_BROKEN = 71
# Longest time that other threads wait for the interpreter while one computes.
SWITCH_S = 0.001


def main(settings: WorkerSettings | None = None) -> int:
    """Runs one worker until SIGTERM or SIGINT. Returns the exit status.

    Status 2 means that the worker cannot start, 71 that the process must be restarted, since its engine broke
    or its card has too little free memory.
    """
    settings = settings or WorkerSettings()
    logs.setup(settings.log_level, settings.log_format)
    sys.setswitchinterval(SWITCH_S)
    gc_tuning.keep_large_blocks_apart()
    try:
        if settings.tracing:
            tracing.setup("worker")
        served = LoadedModels(settings)
        worker = served.worker
        answering = served.probes()
    except (ModelError, tracing.TracingUnavailable) as error:
        log.error("%s", error, extra={"action": "worker.unable"})
        return EXIT_BROKEN if lacks_memory(error) else EXIT_UNABLE
    except OSError as error:
        message = "cannot listen on MILLRACE_WORKER_PORT=%d: %s"
        extra = {"action": "worker.unable"}
        log.error(message, settings.worker_port, error, extra=extra)
        return EXIT_UNABLE
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: worker.stop())
    try:
        served.warm_up()
    except Exception as error:
        log.error("warming up the model failed: %s", error, extra={"action": "worker.unable"})
        return EXIT_BROKEN if lacks_memory(error) else EXIT_UNABLE
    gc_tuning.collect_dropped()
    gc_tuning.freeze_after_startup()
    worker.run()
    served.close()
    if answering is not None:
        answering.close()
    return EXIT_BROKEN if worker.broken else 0


if __name__ == "__main__":
    ArgumentParser(prog="python -m batcher", description=__doc__).parse_args()
    sys.exit(main())
