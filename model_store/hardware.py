"""Detects what an engine can use on this machine: cores, and the arithmetic of the processor."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
from importlib.util import find_spec
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CPU_INFO = Path("/proc/cpuinfo")
_CUDA_DEVICE = Path("/dev/nvidiactl")
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


def cores(cgroup: Path = _CGROUP) -> int:
    """Number of cores this process may use: its affinity, or its cgroup's quota if that is smaller."""
    allowed = affinity()
    quota = _quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


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


def has_cuda(device: Path = _CUDA_DEVICE, torch: Path | None = None) -> bool:
    """Whether torch would find a GPU: there is an NVIDIA driver, and torch was built with CUDA.

    Fast, because it does not import torch. `torch` is the directory of that package.
    """
    if torch is None:
        spec = find_spec("torch")
        if spec is None or spec.origin is None:
            return False
        torch = Path(spec.origin).parent
    return device.exists() and (torch / "lib" / "libtorch_cuda.so").exists()


def _quota(cgroup: Path) -> float | None:
    """Cores granted by `cpu.max` (cgroup 2) or `cpu.cfs_quota_us` (cgroup 1); None if unlimited."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
    except (OSError, ValueError):
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
