"""Instruction sets that one processor can be limited to, so that it approximates others.

`ONEDNN_MAX_CPU_ISA` limits oneDNN, which OpenVINO and torch multiply matrices with; `ATEN_CPU_CAPABILITY`
limits torch's own kernels. Kernels that OpenVINO generates without oneDNN still see the processor as it is:
this approximates other processors and does not replace a run on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Level:
    """A limit, and the flags in /proc/cpuinfo that a processor needs to run it."""

    isa: str
    aten: str
    needs: frozenset[str]

    @property
    def environment(self) -> dict[str, str]:
        """Set before an engine runs its first kernel."""
        return {"ONEDNN_MAX_CPU_ISA": self.isa, "ATEN_CPU_CAPABILITY": self.aten}

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 is computed by instructions. Without them it takes up to a hundred times longer."""
        return "avx512_bf16" in self.needs

    def missing(self, flags: frozenset[str]) -> str:
        """Why a processor with `flags` cannot run this; empty where it can."""
        lacking = sorted(self.needs - flags)
        return f"this processor lacks {', '.join(lacking)}" if lacking else ""


_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16"}
_FP16 = _BF16 | {"avx512_fp16", "avx_vnni"}

LEVELS = (
    Level("AVX2", "avx2", _AVX2),
    Level("AVX2_VNNI", "avx2", _AVX2 | {"avx_vnni"}),
    Level("AVX512_CORE", "avx512", _AVX512),
    Level("AVX512_CORE_VNNI", "avx512", _VNNI),
    Level("AVX512_CORE_BF16", "avx512", _BF16),
    Level("AVX512_CORE_FP16", "avx512", _FP16),
    Level("AVX512_CORE_AMX", "avx512", _FP16 | {"amx_tile", "amx_int8", "amx_bf16"}),
)


def flags(cpu_info: Path = CPU_INFO) -> frozenset[str]:
    """What this processor offers; nothing where it does not say so in the manner of x86 Linux."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").partition(":")[2].split())
