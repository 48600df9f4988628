"""The largest resident set of processes while something runs."""

from __future__ import annotations

import threading
from pathlib import Path


class Memory:
    """Of each process, and of the one that the jobs worker starts for a job: MiB before and at most."""

    def __init__(self, pids: dict[str, int], jobs: int) -> None:
        self._pids = pids | {"jobs": jobs}
        self._children = Path(f"/proc/{jobs}/task/{jobs}/children")
        self.before = self._look()
        self.peak = dict(self.before)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self, name: str) -> float:
        return self.peak[name] - self.before[name]

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for name, size in self._look().items():
                self.peak[name] = max(self.peak.get(name, 0.0), size)

    def _look(self) -> dict[str, float]:
        sizes = {name: resident_mib(pid) for name, pid in self._pids.items()}
        children = map(int, self._children.read_text().split())
        return sizes | {"job": max(map(resident_mib, children), default=0.0)}


def resident_mib(pid: int) -> float:
    """Memory that a process holds; 0 if there is none."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
