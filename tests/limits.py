"""The memory that the manifests give each process, and processes that are held to it."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import yaml

MIB = 1024**2
BASE = Path(__file__).parents[1] / "k8s/base"
# Stacks of threads count as data, although little of them is touched: 40 for streamed answers, which only a
# flood starts, 8 for uploads, and a dozen others.
STACKS = 60 * 8 * MIB


def limit_bytes(role: str) -> int:
    """What the manifest gives `api`, `worker`, `jobs` or `redis`."""
    (manifest,) = (
        path for path in (BASE / role).glob("*.yaml") if path.stem in ("deployment", "statefulset")
    )
    (spec,) = (
        one
        for one in yaml.safe_load_all(manifest.read_text())
        if one["kind"] in ("Deployment", "StatefulSet")
    )
    said = spec["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    number, unit = re.fullmatch(r"(\d+)([MG])i", said).groups()  # type: ignore[union-attr]
    return int(number) * MIB * (1024 if unit == "G" else 1)


def confine(pid: int, role: str) -> None:
    """From now on, the system refuses the process more than the manifest gives its role."""
    process = psutil.Process(pid)
    memory = process.memory_info()
    most = memory.data + max(limit_bytes(role) - memory.rss, 0) + STACKS
    process.rlimit(psutil.RLIMIT_DATA, (most, most))
