"""Detects what an engine can use on this machine: cores, and the arithmetic of the processor."""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
_CUDA_DRIVER = "libcuda.so.1"
# Flags of x86 and ARM processors with bf16 arithmetic.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
# Variables that change which kernels oneDNN, OpenVINO, torch, MKL and libm use: all of these, since versions
# add others, except for those that change no answer.
_CHANGES_KERNELS = re.compile(
    r"(ONEDNN_|DNNL_|OV_|ATEN_|MKL_|TORCH_MKLDNN_|TORCH_LINEAR_|GLIBC_TUNABLES)"
    r"(?!VERBOSE|PRIMITIVE_CACHE_CAPACITY|NUM_THREADS)"
)


def affinity() -> int:
    """Number of cores this process may run on, regardless of quotas."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(cgroups: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> int:
    """Number of cores this process may use: its affinity, or the least quota of its cgroups if smaller.

    `cgroups` is where they are mounted, and `own` lists those of this process. A service of systemd or a job
    of Slurm has its quota in its own cgroup or one above it, and a container at the root of what it sees.
    """
    return max(1, math.ceil(min([affinity(), *_quotas(cgroups, own)])))


def has_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the processor supports bf16 multiplication, which makes bf16 faster than f32."""
    return not _BF16_FLAGS.isdisjoint(_first_lines(cpu_info, "flags", "Features").split())


def processor(cpu_info: Path = _CPU_INFO) -> str:
    """A short digest of the kind of processor, equal on machines with the same instructions, and of the
    variables that choose among them.
    """
    names = "model name", "CPU implementer", "CPU part", "flags", "Features"
    known = [platform.machine(), platform.processor(), _first_lines(cpu_info, *names)]
    variables = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if _CHANGES_KERNELS.match(name)]
    return hashlib.sha256("\n".join([*known, *variables]).encode()).hexdigest()[:12]


def _first_lines(cpu_info: Path, *names: str) -> str:
    """The first value of each name in /proc/cpuinfo, whose names differ on ARM and which macOS lacks."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return ""
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in names:
            found.setdefault(name.strip(), value.strip())
    return "\n".join(found.values())


@cache
def cards() -> tuple[str, ...]:
    """Names of the NVIDIA cards that CUDA shows this process; () without a driver.

    CUDA_VISIBLE_DEVICES chooses among them.
    """
    try:
        driver = ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return ()
    number, card, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number)):
        return ()
    names = []
    for index in range(number.value):
        driver.cuDeviceGet(ctypes.byref(card), index)
        driver.cuDeviceGetName(name, len(name), card)
        names.append(name.value.decode())
    return tuple(names)


def card(torch: Path | None = None) -> str:
    """Name of the NVIDIA card that torch would use; "" if it was built without CUDA, or sees none.

    Fast, because it does not import torch. `torch` is the directory of that package.
    """
    if torch is None:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return ""
        torch = Path(spec.origin).parent
    return cards()[0] if (torch / "lib" / "libtorch_cuda.so").exists() and cards() else ""


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """The cores that each cgroup of this process grants, and each above it, as far as they can be read."""
    groups = {PurePosixPath()}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if (not controllers or "cpu" in controllers.split(",")) and ".." not in path:
                group = PurePosixPath("cpu" if controllers else "", path.strip("/"))
                groups |= {group, *group.parents}
    for group in {*groups, PurePosixPath("cpu")}:
        with suppress(OSError, ValueError):
            yield _quota(cgroups / group)


def _quota(group: Path) -> float:
    """The cores granted by `cpu.max` (cgroup 2) or `cpu.cfs_quota_us` (cgroup 1). Infinite if unlimited."""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    else:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)
