"""`python benchmarks/worker_time.py FILE`: `millrace worker`, its processor time beside the model in FILE.

That is the time of all threads of Python without what they spend in a forward pass; those of engines are not
threads of Python. It runs from its path, so that it can also run the code of another commit.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EVERY_S = 0.05


class ModelTime:
    """Seconds that threads of Python have spent in forward passes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, whose processor time in its thread counts from now on."""

        def counted(*args: Any, **more: Any) -> Any:
            began = time.thread_time()
            try:
                return run(*args, **more)
            finally:
                self.seconds += time.thread_time() - began

        return counted


def engine() -> Any:
    """The class whose method `run` is a forward pass, of the engine that the worker will use."""
    if os.environ.get("MILLRACE_ENGINE") == "torch":
        from model_store.engines.pytorch import TorchRunner

        return TorchRunner
    from model_store.engines.openvino_ir import OpenVinoRunner

    return OpenVinoRunner


def write(file: Path, model: ModelTime) -> None:
    """Every EVERY_S seconds: the processor time of the threads of Python, without the model's and its own."""
    new = file.with_suffix(".new")
    while True:
        spent = -model.seconds
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.ident is not None:
                try:
                    spent += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
                except OSError:  # it has just ended
                    continue
        new.write_text(str(spent))
        os.replace(new, file)
        time.sleep(EVERY_S)


def main() -> int:
    file = Path(sys.argv[1])
    sys.argv = ["millrace", "worker"]
    from millrace.__main__ import main as millrace

    model, runner = ModelTime(), engine()
    runner.run = model.of(runner.run)
    threading.Thread(target=write, args=[file, model], name="worker-time", daemon=True).start()
    return millrace()


if __name__ == "__main__":
    sys.exit(main())
