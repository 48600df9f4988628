"""Cores are those the process may use: its affinity, cut by the least quota of its cgroups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batcher.settings import WorkerSettings
from benchmarks.quota import cgroup
from millrace.local.stack import models_and_threads
from model_store import hardware
from model_store.hardware import cores, has_bf16, processor

ROOT = Path(__file__).parents[3]
ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", ALLOWED), ("9900000 100000", ALLOWED)],
)
def test_quota_of_cgroup_2(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("100000", 1), ("-1", ALLOWED)])
def test_quota_of_cgroup_1(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == expected


QUOTAS = {"": 6, "job": 3, "job/step": 2, "job/step/task": None}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", 6), ("/job", 3), ("/job/step", 2), ("/job/step/task", 2), ("/elsewhere", 6), ("/../job/step", 6)],
)
def test_the_least_quota_of_a_cgroup_and_all_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, path: str, expected: int
) -> None:
    """Those of systemd's CPUQuota and of Slurm are in the own cgroup; only the root was read."""
    monkeypatch.setattr("model_store.hardware.affinity", lambda: 64)
    for group, granted in QUOTAS.items():
        folder = tmp_path / ("cpu" if version == 1 else "") / group
        folder.mkdir(parents=True, exist_ok=True)
        if version == 1:
            (folder / "cpu.cfs_quota_us").write_text(f"{granted * 50_000 if granted else -1}\n")
            (folder / "cpu.cfs_period_us").write_text("50000\n")
        else:
            (folder / "cpu.max").write_text(f"{granted * 50_000 if granted else 'max'} 50000\n")
    own = tmp_path / "own"
    own.write_text(f"5:memory:/job\n3:cpuacct,cpu:{path}\n" if version == 1 else f"0::{path}\n")
    assert cores(tmp_path, own) == expected


@pytest.mark.parametrize(("granted", "expected"), [(0.5, 1), (1.0, 1), (1.5, min(2, ALLOWED))])
def test_the_quota_of_a_real_cgroup(granted: float, expected: int) -> None:
    ask = "from model_store.hardware import cores; print(cores())"
    try:
        with cgroup(granted) as tasks:
            words = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(tasks), sys.executable, "-c", ask]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError as error:
        pytest.skip(f"cgroups cannot be made: {error}")
    assert (done.stdout.strip(), done.stderr) == (str(expected), "")


def test_workers_of_one_command_share_what_the_quota_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_store.hardware.cores", lambda: 5)
    settings = WorkerSettings(model="stub")
    assert [models_and_threads(settings, count)["MILLRACE_THREADS"] for count in (1, 2, 8)] == ["0", "2", "1"]
    assert models_and_threads(WorkerSettings(model="stub", threads=3), 2)["MILLRACE_THREADS"] == "3"


def test_no_cgroup_means_the_affinity(tmp_path: Path) -> None:
    assert cores(tmp_path) == ALLOWED


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx512_bf16", True), ("amx_bf16", True), ("fpu avx512f", False)]
)
def test_bf16_by_the_flags_of_the_processor(tmp_path: Path, flags: str, expected: bool) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert has_bf16(cpu_info) is expected


@pytest.mark.parametrize(("features", "expected"), [("fp asimd bf16 i8mm", True), ("fp asimd", False)])
def test_bf16_by_the_features_of_an_arm(tmp_path: Path, features: str, expected: bool) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: {features}\nCPU part\t: 0xd40\n")
    assert has_bf16(cpu_info) is expected


def test_processors_differ_by_flags_and_by_what_limits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    kinds = [processor(cpu_info)]
    for flags in ("fpu amx_bf16", "fpu"):
        cpu_info.write_text(f"processor : 0\nmodel name : one\nflags : {flags}\ncpu MHz : {len(kinds)}\n")
        kinds.append(processor(cpu_info))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    kinds.append(processor(cpu_info))
    assert len(set(kinds)) == 4
    cpu_info.write_text("processor : 0\nmodel name : one\nflags : fpu\ncpu MHz : 2000\n")
    assert processor(cpu_info) == kinds[-1]


@pytest.mark.parametrize(
    "name",
    [
        "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_CPU_ISA_HINTS",
        "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "OV_CPU_MAX_ISA", "OV_CPU_LEGACY_ATTN",
        "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR", "MKL_DISABLE_FAST_MM",
        "TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_LINEAR_FLATTEN_3D", "GLIBC_TUNABLES",
    ],
)  # fmt: skip
def test_a_proof_with_other_kernels_was_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    before = processor(tmp_path)
    monkeypatch.setenv(name, "1")
    changed = processor(tmp_path)
    monkeypatch.setenv(name, "2")
    assert len({before, changed, processor(tmp_path)}) == 3


@pytest.mark.parametrize("name", ["ONEDNN_VERBOSE", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "MKL_NUM_THREADS"])
def test_what_changes_no_answer_changes_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = processor(tmp_path)
    monkeypatch.setenv(name, "7")
    assert processor(tmp_path) == before


def test_an_unknown_system_has_no_bf16(tmp_path: Path) -> None:
    assert not has_bf16(tmp_path / "missing")


class Driver:
    """That of CUDA, on a machine with these cards."""

    def __init__(self, *cards: str, fails: int = 0) -> None:
        self._cards, self._fails = cards, fails

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0, "as CUDA requires"
        return self._fails

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._cards)
        return 0

    def cuDeviceGet(self, card: Any, index: int) -> int:  # noqa: N802
        card._obj.value = 10 + index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, card: Any) -> int:  # noqa: N802
        name.value = self._cards[card.value - 10].encode()[: length - 1]
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Driver | None], None]]:
    def install(driver: Driver | None) -> None:
        def load(name: str) -> Driver:
            if driver is None:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        hardware.cards.cache_clear()
        monkeypatch.setattr(hardware.ctypes, "CDLL", load)

    yield install
    hardware.cards.cache_clear()


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (None, ()),
        (Driver("NVIDIA T4", fails=100), ()),
        (Driver(), ()),
        (Driver("NVIDIA H200", "NVIDIA L4"), ("NVIDIA H200", "NVIDIA L4")),
    ],
)
def test_cards_are_those_that_their_driver_shows(
    driver: Callable[[Driver | None], None], found: Driver | None, names: tuple[str, ...]
) -> None:
    """A card hidden by CUDA_VISIBLE_DEVICES counted, since only its device file was looked for."""
    driver(found)
    assert hardware.cards() == names


@pytest.mark.parametrize("build", [False, True])
def test_torch_uses_a_card_only_if_it_was_built_for_one(
    tmp_path: Path, driver: Callable[[Driver | None], None], build: bool
) -> None:
    (tmp_path / "lib").mkdir()
    if build:
        (tmp_path / "lib/libtorch_cuda.so").touch()
    driver(Driver("NVIDIA H200"))
    assert hardware.card(tmp_path) == ("NVIDIA H200" if build else "")
    driver(None)
    assert hardware.card(tmp_path) == ""
