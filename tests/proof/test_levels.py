"""A tiny model: every engine, precision and layout answers right under every instruction set that is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.hardware import affinity
from tests.lazy import require_modules
from tests.proof.levels import LEVELS, Level, flags
from tests.proof.measure import Scores, Setting, measured, probe_texts

require_modules("torch", "openvino")
ENGINES = (
    ("torch", "f32"),
    ("torch", "bf16"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
# What the weights of the tiny model, larger than any real one's, make of rounding.
ERROR = {"f32": 2e-5, "bf16": 0.1, "int8": 0.25}
# One thread, two, and one more than there are cores. Each setting is proven when it is loaded.
SETTINGS = [
    *(Setting(*engine, "packed", 1) for engine in ENGINES),
    *(Setting(*engine, "padded", affinity() + 1) for engine in ENGINES if engine != ("torch", "bf16")),
    *(Setting("openvino", precision, "packed", 2) for precision in ("bf16", "int8")),
]
# Each engine and precision, and both layouts of what rounds the most; a long run has the others, too.
FEW = [one for one in SETTINGS if (one.layout == "packed" and one.threads == 1) or one.precision == "int8"]
# Words; the rows of 17 to 32 tokens among them are the ones that int8 with bf16 arithmetic gets wrong on AMX.
TEXTS = probe_texts([1, 3, 8, 14, 16, 20, 24, 29, 33, 48, 64, 110])
# A processor that supports f16 in oneDNN says so; this is how a limit that had no effect is found out.
WITH_F16 = {"AVX512_CORE_FP16", "AVX512_CORE_AMX"}


@pytest.fixture(scope="module")
def reference(checkpoint: Path, kept: Path) -> Scores:
    """torch in f32, nothing limited, each text alone. Builds the other artefacts on the way."""
    engines = (("torch", "f32"), ("openvino", "f32"), ("openvino", "int8"))  # f32 and bf16 share theirs
    builds = [Setting(*engine, "packed", 1) for engine in engines]
    answers, *_ = measured({}, str(checkpoint), builds, TEXTS, kept)
    return answers.alone


@pytest.mark.timeout(600)  # seconds of work, but every process of a busy machine waits for its turn
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.isa)
@pytest.mark.parametrize(
    "settings", [FEW, pytest.param(SETTINGS, marks=pytest.mark.long)], ids=["few", "all"]
)
def test_answers_are_right_and_the_same_in_any_batch(
    level: Level, settings: list[Setting], checkpoint: Path, kept: Path, reference: Scores
) -> None:
    if reason := level.missing(flags()):
        pytest.skip(reason)
    wrong = []
    for answers in measured(level.environment, str(checkpoint), settings, TEXTS, kept):
        assert answers.capability == level.aten.upper(), "the limit of torch's kernels had no effect"
        assert ("FP16" in answers.openvino) == (level.isa in WITH_F16), "the limit of oneDNN had no effect"
        error = answers.error(reference)
        if answers.difference > answers.tolerance or error > ERROR[answers.setting.precision]:
            wrong.append(f"{answers.setting}: {answers.difference:.3g} by batching, {error:.3g} from f32")
    assert not wrong, "\n".join(wrong)


def test_what_a_processor_lacks_is_named(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nflags : fpu avx2 fma avx_vnni\n\nprocessor : 1\nflags : fpu\n")
    runs = [level.isa for level in LEVELS if not level.missing(flags(info))]
    assert runs == ["AVX2", "AVX2_VNNI"]
    assert LEVELS[2].missing(flags(info)) == ("this processor lacks avx512bw, avx512dq, avx512f, avx512vl")
    assert flags(tmp_path / "none") == frozenset()
