"""Engine by precision by layout by instruction set, on models of real size. Status 1 where a limit is broken.

python -m tests.proof [--models default,distilbert-base] [--levels AVX2,...] [--texts 64] [--artefact-dir DIR]

Each level runs in a separate process. The reference is torch in f32 with nothing limited, each text alone.
The limits below were written down before anything was measured.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.limit import reference as model_reference
from model_store.hardware import affinity
from tests.proof.levels import LEVELS, Level, flags
from tests.proof.measure import Answers, Scores, Setting, measured, probe_texts

ENGINES = (
    ("torch", "f32"),
    ("torch", "bf16"),
    ("openvino", "f32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
# Labels may differ from torch f32 only where its best two scores are closer than this.
MARGIN = {"f32": 0.001, "bf16": 0.1, "int8": 0.3}
AGREEMENT = {"f32": 0.999, "bf16": 0.98, "int8": 0.95}
# Emulated arithmetic is measured on every eighth text, and models larger than the default on every fourth.
EMULATED_STEP = 8
LARGE_STEP = 4
COLUMNS = ("setting", "ran", "threads", "batched", "allowed", "from f32", "agreement", "flips", "")


@dataclass(frozen=True, slots=True)
class Row:
    """What one setting came to under one level."""

    name: str
    answers: Answers
    error: float
    agreement: float
    flips: int

    @property
    def holds(self) -> bool:
        """Whether no limit is broken."""
        return (
            self.answers.difference <= self.answers.tolerance
            and self.agreement >= AGREEMENT[self.answers.setting.precision]
            and self.flips == 0
        )

    def cells(self) -> list[str]:
        """One line of the table."""
        difference, tolerance = self.answers.difference, self.answers.tolerance
        return [
            self.name,
            self.answers.ran,
            str(self.answers.setting.threads),
            f"{difference:.2g}",
            f"{tolerance:.2g}",
            f"{self.error:.2g}",
            f"{self.agreement:.1%}",
            str(self.flips),
            "" if self.holds else "BROKEN",
        ]


def settings(model: str, level: Level) -> Iterator[Setting]:
    """Every engine, precision and layout with all cores; the default also with other numbers of threads.

    Emulated arithmetic takes up to a hundred times longer: the default runs it on every eighth text with all
    cores, and larger models not at all.
    """
    cores, default = affinity(), model == "default"
    for engine, precision in ENGINES:
        slow = emulated(precision, level)
        if slow and not default:
            continue
        others = () if slow or not default else (1, 2, cores + 1)
        step = EMULATED_STEP if slow else 1 if default else LARGE_STEP
        for threads in sorted({cores, *others}):
            yield Setting(engine, precision, "packed", threads, step)
        yield Setting(engine, precision, "padded", cores, step)


def emulated(precision: str, level: Level) -> bool:
    """Whether the level computes this precision without instructions for it."""
    return precision == "bf16" and not level.has_bf16


def judged(name: str, answers: Answers, reference: Scores) -> Row:
    """Compares with the reference."""
    margin = MARGIN[answers.setting.precision]
    return Row(
        name,
        answers,
        answers.error(reference),
        answers.agreement(reference),
        answers.flips(reference, margin),
    )


def rows(model: str, levels: Sequence[Level], asked: Sequence[str], artefact_dir: Path) -> Iterator[Row]:
    """Every setting of one model under every level."""
    path = model_reference(model, artefact_dir)
    report.progress(f"{model}: torch f32, nothing limited; artefacts are built where there are none")
    plain = [Setting("torch", "f32", "packed", affinity())]
    (answers,) = measured({}, path, plain, asked, artefact_dir)
    # Built without a limit, as an artefact that came from another machine.
    builds = [Setting(*engine, "auto", affinity()) for engine in ENGINES]
    for _ in measured({}, path, builds, asked[:1], artefact_dir):
        pass
    for level in levels:
        if model != "default" and emulated("bf16", level):
            report.progress(f"{model} bf16 {level.isa}: skipped, it is emulated and takes hours")
        for found in measured(level.environment, path, list(settings(model, level)), asked, artefact_dir):
            setting = found.setting
            name = f"{model} {setting.engine} {setting.precision} {level.isa}"
            report.progress(f"{name} {setting.layout}, {setting.threads} threads")
            yield judged(name, found, answers.alone[:: setting.step])


def main() -> int:
    """Measures, shows the table and names what is broken."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--models", default="default,distilbert-base")
    parser.add_argument("--levels", default=",".join(level.isa for level in LEVELS))
    parser.add_argument("--texts", type=int, default=64, help="one of each length from one word on")
    parser.add_argument("--artefact-dir", type=Path, default=Path("~/.cache/millrace"))
    args = parser.parse_args()
    # Threads of torch that wait must not spin: under other load, a batch would take many times longer.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    chosen = [level for level in LEVELS if level.isa in args.levels.split(",")]
    here = flags()
    for level in chosen:
        if reason := level.missing(here):
            print(f"{level.isa}: skipped, {reason}")
    able = [level for level in chosen if not level.missing(here)]
    asked = probe_texts(range(1, args.texts + 1))
    directory = args.artefact_dir.expanduser()
    found = [row for model in args.models.split(",") for row in rows(model, able, asked, directory)]
    report.table(COLUMNS, [row.cells() for row in found])
    broken = [row for row in found if not row.holds]
    print(f"{len(found)} settings, {len(broken)} broken")
    return 1 if broken or not found else 0


if __name__ == "__main__":
    sys.exit(main())
