"""An engine proves itself before it serves: a wrong shape is caught, and a safer setting serves instead."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batcher import logs
from batcher.__main__ import EXIT_BROKEN, EXIT_UNABLE, main
from batcher.settings import WorkerSettings
from model_store import ModelInfo, Tokens, choosing, load
from model_store import prepare as preparing
from model_store.__main__ import main as model_store
from model_store.artefact import PROBES, Manifest, read_manifest, verify
from model_store.checkpoint import read_checkpoint
from model_store.choosing import Proven
from model_store.classifier import Verdict
from model_store.engines import runner
from model_store.errors import GateFailed, Unproven
from model_store.inputs import Inputs
from model_store.probes import CHOOSES, EVERY, UNBOUNDED, Probes, Scores, Source, chosen, read_probes
from model_store.probing import compute_probes
from model_store.proof import (
    BATCH_TOKENS,
    SAME_ANSWERS,
    Limits,
    Observation,
    Proof,
    batches,
    limits,
    prove,
    sampled,
)
from model_store.proof_table import lines
from model_store.rows import FILLER, Floats, Rows, plan
from model_store.stub import StubClassifier
from tests.families.checkpoints import write_family
from tests.unit.model_store.checkpoints import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LENGTHS = [*range(2, EVERY + 1), 80, 96, 128, 256, 512]
STRICT = Limits(answers=0.01, batched=0.01)
Breaks = Callable[[Rows, str, str], bool]


class Shaped(StubClassifier):
    """Exact answers, save in passes of one row of `wrong` tokens."""

    def __init__(self, wrong: int = 0, by: float = 0.3) -> None:
        super().__init__()
        self._wrong, self._by = wrong, by

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        lay = plan([len(tokens) for tokens in batch], "packed")
        wrong = self._by if (len(lay.rows), lay.length) == (1, self._wrong) else 0.0
        return [[0.8 - wrong, 0.2 + wrong] for _ in batch]


def probes(lengths: Sequence[int] = LENGTHS) -> Probes:
    tokens = tuple(Tokens([7] * length, truncated=False, unknown=0) for length in lengths)
    answers = np.array([[0.8, 0.2]] * len(tokens))
    return Probes(tokens, answers, answers, rounding=0.01)


def test_each_probe_comes_alone_and_with_others_first_or_last() -> None:
    proof = prove(Shaped(), probes(), STRICT)
    assert proof.failed == ""
    for at in range(len(LENGTHS)):
        seen = [one for one in proof.seen if one.probe == at]
        kinds = {one.kind for one in seen}
        assert kinds == {"alone", "pair", "full"} if LENGTHS[at] <= EVERY else len(kinds) == 2, LENGTHS[at]
    pairs = [pair for kind, pair in batches(LENGTHS) if kind == "pair" and max(pair) < EVERY - 1]
    assert {at for pair in pairs for at in pair} == {*range(EVERY - 1)}
    assert {one < other for one, other in pairs} == {True, False}, "the shorter one comes first, and last"
    assert max(sum(LENGTHS[at] for at in batch) for _, batch in batches(LENGTHS)) <= 768


def test_a_batch_that_is_full_on_a_card_is_proven_too() -> None:
    together = [sum(LENGTHS[at] for at in batch) for _, batch in batches(LENGTHS, 4096)]
    assert sorted(together)[-2] <= 768
    assert 4096 <= max(together) < 4096 + sum(LENGTHS)


@pytest.mark.parametrize("wrong", [16, 32, 48, 64, 80, 128, 256, 512])
def test_one_wrong_shape_is_caught_and_named(wrong: int) -> None:
    proof = prove(Shaped(wrong), probes(), STRICT)
    assert proof.failed
    assert proof.verdict.reason == proof.failed
    (length,) = {LENGTHS[one.probe] for one in proof.seen if one.answer > 0.01}
    assert wrong - 16 < length <= wrong, "it ends with the first wrong answer"
    assert "alone" in proof.failed


def test_to_the_end_everything_is_seen() -> None:
    began = time.perf_counter()
    proof = prove(Shaped(32), probes(), STRICT, to_the_end=True)
    assert 0 < proof.seconds <= time.perf_counter() - began
    assert proof.verdict.seconds == round(proof.seconds, 3)
    assert proof.batches == len(list(batches(LENGTHS)))
    assert proof.verdict.answers == pytest.approx(0.3)
    assert proof.verdict.batched == pytest.approx(0.3)


def test_a_flipped_label_fails_whatever_the_tolerance() -> None:
    lax = Limits(answers=1.0, batched=1.0)
    assert prove(Shaped(32, by=0.25), probes(), lax).failed == ""
    assert "has another label" in prove(Shaped(32, by=0.35), probes(), lax).failed


def test_scores_that_are_no_numbers_fail() -> None:
    assert "gave invalid scores" in prove(Shaped(32, by=float("nan")), probes(), STRICT).failed


def test_tolerances_follow_from_weights_arithmetic_and_model() -> None:
    assert limits("float", "f32", 0.02).answers == 1e-4
    assert limits("float", "bf16", 0.02).answers == pytest.approx(0.04)
    assert limits("float", "bf16", 0.0).answers == pytest.approx(0.01)
    assert limits("float", "bf16", 0.3).answers == pytest.approx(0.1)
    assert limits("int8", "f32", 0.02).batched == SAME_ANSWERS
    assert {limits("int8", "bf16", 0.3).margin, limits("float", "f32", 0).margin} == {0.1}


def test_texts_of_each_length_keep_their_special_tokens() -> None:
    def tokens(*ids: int) -> Tokens:
        return Tokens(ids, truncated=False, unknown=0)

    source = Source(tokens(1, 2), [tokens(1, 10, 11, 12, 2), tokens(1, 13, 2)])
    lengths = list(source.lengths(512))
    assert lengths[:47] == [*range(2, 33), *range(34, 65, 2)]
    assert lengths[47:] == [80, 96, 112, 128, 176, 256, 352, 512]
    assert max(source.lengths(60)) == 60
    assert list(source.lengths(5000))[-4:] == [1024, 2048, 4096, 5000]
    for length in lengths:
        text = source.text(length)
        assert (len(text), text[0], text[-1]) == (length, 1, 2)
        assert set(text[1:-1]) <= {10, 11, 12, 13}
    assert len(Source(tokens(), [tokens(10, 11)]).text(1)) == 1


def test_only_short_texts_have_the_padding_that_takes_a_position_from_others() -> None:
    source = Source(Tokens([1, 2], 0, 0), [Tokens([1, 10, 11, 12, 2], 0, 0)], (5, 7), unnumbered=7)
    assert {5, 7} < {*source.text(32)}
    assert 5 in source.text(128)
    assert 7 not in source.text(128)


def test_short_texts_have_several_candidates_and_the_least_certain_is_a_probe() -> None:
    """Texts of one or two tokens lost twice as much in bf16 as three candidates of each length showed."""
    source = Source(Tokens([1, 2], 0, 0), [Tokens([1, 10, 11, 12, 2], 0, 0)])
    texts = source.candidates(128)
    lengths = [len(text) for text in texts]
    assert lengths == sorted(lengths)
    assert [lengths.count(length) for length in (2, 3, 4, 16, 24, 25, 128)] == [16, 19, 12, 3, 2, 1, 1]
    assert [1, 11, 2] in texts
    assert max(map(len, source.candidates(2))) == 2
    scores = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [1.0, 0.0]])
    assert chosen([[1], [2], [3], [1, 2]], scores) == [1, 3]


# -- a worker's start --------------------------------------------------------------------------------


class Broken:
    """An engine that answers wrongly wherever `breaks` says so."""

    def __init__(self, inner: Any, breaks: Callable[[Rows], bool]) -> None:
        self._inner, self._breaks = inner, breaks

    @property
    def device(self) -> str:
        return str(self._inner.device)

    def run(self, rows: Rows) -> Floats:
        logits: Floats = self._inner.run(rows)
        return np.asarray(logits[:, ::-1] + 3 if self._breaks(rows) else logits)

    def close(self) -> None:
        self._inner.close()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Breaks], None]:
    """Makes engines wrong for some rows, weights and arithmetic."""

    def install(breaks: Breaks) -> None:
        make = runner.make_runner

        def made(path: Path, manifest: Any, threads: int, arithmetic: Any) -> Any:
            engine = make(path, manifest, threads, arithmetic)
            return Broken(engine, lambda rows: breaks(rows, manifest.weights, arithmetic))

        monkeypatch.setattr(runner, "make_runner", made)

    return install


def one_row_of_32(rows: Rows) -> bool:
    return rows.ids.shape == (1, 32)


def several_texts_in_a_row(rows: Rows) -> bool:
    return any(len(set(row.tolist()) - {FILLER}) > 1 for row in rows.segments)


def test_the_same_weights_in_f32_take_the_place_of_a_wrong_arithmetic(
    checkpoint: Path, kept: Path, broken: Callable[[Breaks], None]
) -> None:
    broken(lambda rows, _, arithmetic: arithmetic == "bf16" and one_row_of_32(rows))
    info = load(str(checkpoint), engine="torch", precision="bf16", artefact_dir=kept).info
    assert (info.precision, info.arithmetic, info.layout) == ("f32", "f32", "packed")
    assert info.fallback_reason.startswith("float weights in bf16, packed: a text of ")
    assert info.proof
    assert info.proof.reason == ""


def test_a_card_gets_larger_batches_than_the_processor(
    checkpoint: Path, kept: Path, broken: Callable[[Breaks], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(lambda *_: False)
    on_processor = load(str(checkpoint), engine="torch", artefact_dir=kept).info
    monkeypatch.setattr(Broken, "device", "NVIDIA H200")
    on_card = load(str(checkpoint), engine="torch", artefact_dir=kept).info
    assert (on_processor.device, on_card.device) == ("", "NVIDIA H200")
    assert on_card.full_tokens > on_processor.full_tokens == BATCH_TOKENS


def test_one_text_a_row_takes_the_place_of_wrong_packed_rows(
    checkpoint: Path, kept: Path, broken: Callable[[Breaks], None]
) -> None:
    broken(lambda rows, _weights, _arithmetic: several_texts_in_a_row(rows))
    info = load(str(checkpoint), engine="torch", precision="bf16", artefact_dir=kept).info
    assert (info.arithmetic, info.layout) == ("f32", "padded")
    assert "float weights in f32, packed: " in info.fallback_reason


def test_float_weights_take_the_place_of_wrong_int8(
    checkpoint: Path, kept: Path, broken: Callable[[Breaks], None]
) -> None:
    load(str(checkpoint), engine="openvino", precision="int8", threads=1, artefact_dir=kept).close()
    broken(lambda rows, weights, _: weights == "int8" and one_row_of_32(rows))
    info = load(str(checkpoint), engine="openvino", precision="int8", threads=1, artefact_dir=kept).info
    assert (info.precision, info.arithmetic, info.layout) == ("f32", "f32", "packed")
    assert "int8 weights in f32, padded: " in info.fallback_reason
    assert (
        load(str(checkpoint), engine="torch", precision="f32", artefact_dir=kept).info.revision
        == info.revision
    )


def test_int8_that_answers_otherwise_is_not_built(
    checkpoint: Path, tmp_path: Path, broken: Callable[[Breaks], None]
) -> None:
    broken(lambda rows, weights, _: weights == "int8" and one_row_of_32(rows))
    out = ["--engine", "openvino", "--precision", "int8", "--out", str(tmp_path / "out")]
    assert model_store(["build", "--model", str(checkpoint), *out]) == 2
    assert not (tmp_path / "out").exists()
    assert model_store(["build", "--model", str(checkpoint), "--force", *out]) == 0
    proof = read_manifest(tmp_path / "out").proof
    assert proof
    assert proof.reason


def test_int8_that_failed_its_gate_is_not_built_again_with_the_same_libraries(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start took as long as the first one, since nothing was kept of the failure."""
    built: list[str] = []
    build = preparing._build

    def build_float(*arguments: Any) -> None:
        *_, weights, _ = arguments
        built.append(weights)
        if weights == "int8":
            raise GateFailed("tiny in int8 does not answer as in f32.")
        build(*arguments)

    monkeypatch.setattr(preparing, "_build", build_float)

    def start() -> ModelInfo:
        options: Any = {"engine": "openvino", "precision": "int8", "threads": 1}
        classifier = load(str(checkpoint), artefact_dir=tmp_path, **options)
        classifier.close()
        return classifier.info

    first, second = start(), start()
    assert built == ["int8", "float"]
    assert first.precision == second.precision == "f32"
    assert first.fallback_reason == second.fallback_reason == "tiny in int8 does not answer as in f32"
    monkeypatch.setattr(preparing, "version", lambda library: f"the next {library}")
    start()
    assert built == ["int8", "float", "int8"], "other libraries may do better"


def test_with_no_setting_left_the_start_fails_with_one_sentence(
    checkpoint: Path,
    kept: Path,
    broken: Callable[[Breaks], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    broken(lambda rows, _weights, _arithmetic: one_row_of_32(rows))
    with pytest.raises(
        Unproven, match=r"cannot be served: .* float weights in f32, padded: a text of \d+ tokens"
    ):
        load(str(checkpoint), engine="torch", precision="bf16", artefact_dir=kept)
    settings = WorkerSettings(model=str(checkpoint), engine="torch", artefact_dir=kept)
    assert main(settings) == EXIT_UNABLE
    assert "cannot be served: no setting of its engine gives the answers of transformers" in caplog.text


def test_an_engine_that_raises_has_failed_its_proof(
    checkpoint: Path, kept: Path, broken: Callable[[Breaks], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is a sentence for /readyz and /stats; the engine's own words go into the log."""
    caplog.set_level("DEBUG", "model_store.choosing")

    def breaks(_rows: Rows, _weights: str, arithmetic: str) -> bool:
        if arithmetic == "bf16":
            raise RuntimeError("illegal instruction")
        return False

    broken(breaks)
    info = load(str(checkpoint), engine="torch", precision="bf16", artefact_dir=kept).info
    assert info.arithmetic == "f32"
    assert info.fallback_reason == f"float weights in bf16, packed: {choosing.RAISED}"
    assert "illegal instruction" in caplog.text


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_card_without_free_memory_is_no_failed_proof(
    checkpoint: Path,
    kept: Path,
    broken: Callable[[Breaks], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: Any,
) -> None:
    """The worker ended with the status of one that can never start, and `millrace up` with it."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)

    def full(*_: object) -> bool:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB.\nMore of it.")

    broken(full)
    settings = WorkerSettings(model=str(checkpoint), engine="torch", precision=precision, artefact_dir=kept)
    assert main(settings) == EXIT_BROKEN
    assert "cannot be loaded now: CUDA out of memory. Tried to allocate 2.00 MiB." in caplog.text


# -- a later start -----------------------------------------------------------------------------------


def test_a_later_start_proves_a_sample_and_another_setting_everything(
    checkpoint: Path, tmp_path: Path, broken: Callable[[Breaks], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Each start proved 23,500 tokens, which took a model of 66 million parameters 11 s of processor time."""
    caplog.set_level("INFO", "model_store.phases")
    shapes: list[tuple[int, ...]] = []
    broken(lambda rows, *_: bool(shapes.append(rows.ids.shape)))

    def start(threads: int = 1) -> tuple[int, ModelInfo]:
        shapes.clear()
        options: Any = {"engine": "torch", "precision": "f32", "threads": threads}
        classifier = load(str(checkpoint), artefact_dir=tmp_path, **options)
        classifier.close()
        return len(shapes), classifier.info

    (whole, first), (sample, later), (other, _) = start(), start(), start(2)
    assert sample < whole / 5 < other
    assert {(1, 16), (1, 32), (1, 48), (1, 64), (1, 128)} <= {*shapes}
    assert first.revision == later.revision
    assert first.proof
    assert later.proof
    assert later.proof.answers >= first.proof.answers
    doing = [record.getMessage() for record in caplog.records]
    assert sum("s: proving all 51 probes: float weights in f32, packed" in line for line in doing) == 2
    assert sum("s: proving a sample of 51 probes" in line for line in doing) == 1
    assert "s: importing torch and transformers" in doing[0]


@pytest.mark.parametrize("breaks", [one_row_of_32, several_texts_in_a_row])
def test_a_sample_that_fails_is_not_served_and_the_next_start_proves_everything(
    breaks: Callable[[Rows], bool], checkpoint: Path, tmp_path: Path, broken: Callable[[Breaks], None]
) -> None:
    options: Any = {"engine": "torch", "precision": "bf16", "threads": 1, "artefact_dir": tmp_path}
    load(str(checkpoint), **options).close()
    broken(lambda rows, _, arithmetic: arithmetic == "bf16" and breaks(rows))
    info = load(str(checkpoint), **options).info
    assert (info.arithmetic, info.layout) == ("f32", "packed")
    assert info.fallback_reason.startswith("float weights in bf16, packed: ")
    kept = [json.loads(file.read_text("utf-8")) for file in tmp_path.glob("choices/*-proven-*")]
    assert len(kept) == 1, "only f32 has passed"


MANIFEST = Manifest(
    name="any",
    revision="a" * 64,
    identity="b" * 64,
    source="",
    labels=("no", "yes"),
    multi_label=False,
    max_tokens=512,
    temperature=1.0,
    engine="openvino",
    weights="float",
    rows=True,
    parameters=1,
    files={},
)


@pytest.mark.parametrize(
    "damage",
    [
        {"answers": None},
        {"answers": "0.0"},
        {"answers": float("nan")},
        {"batched": [0.0]},
        {"reason": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_damaged_record_of_a_proof_means_that_everything_is_proved(
    damage: dict[str, Any], tmp_path: Path
) -> None:
    """Numbers of another type made every setting fail, and not a number hid a difference."""
    memory = Proven(tmp_path, MANIFEST, StubClassifier().info, 1)
    passed = Verdict(batches=9, answers=0.01, batched=0.01, agreement=1.0, flips=0, seconds=1.0)
    memory.note(passed)
    assert memory.verdict() == passed
    (file,) = tmp_path.glob("choices/*-proven-*")
    file.write_text(json.dumps(asdict(passed) | damage))
    assert memory.verdict() is None


def test_a_failed_proof_can_be_noted_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Deleting what is not there fails too on a read-only filesystem."""
    (directory := tmp_path / "no-directory").write_text("")
    memory = Proven(directory, MANIFEST, StubClassifier().info, 1)
    memory.note(Verdict(1, 1.0, 0.0, 0.0, 1, 0.0, "another label"))
    assert memory.verdict() is None


@pytest.mark.parametrize(("most", "allowed"), [(512, 8_000), (8192, 26_000), (1023, 11_500)])
def test_a_proof_has_a_bound_and_the_last_length(most: int, allowed: int) -> None:
    """ModernBERT with 8,192 positions proved 2.1 million tokens at each start, and then none above 1,024."""
    source = Source(Tokens([1, 2], 0, 0), [Tokens([1, 10, 11, 12, 2], 0, 0)])
    lengths = list(source.lengths(most))
    assert lengths == sorted({*lengths})
    assert lengths[-1] == most
    assert sum(lengths[at] for _, batch in batches(lengths) for at in batch) < allowed
    assert sum(lengths[at] for _, batch in sampled(lengths) for at in batch) < 2_200 + most
    assert ("alone", [len(lengths) - 1]) in sampled(lengths)
    alone = {batch[0] for kind, batch in sampled(lengths) if kind == "alone"}
    assert alone.issuperset(at for kind, batch in sampled(lengths) if kind != "alone" for at in batch)


# -- the choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bf16", "chosen"), [(0.95, "f32"), (0.85, "bf16")])
def test_auto_leaves_f32_for_more_than_a_tenth_only_and_remembers(
    checkpoint: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, chosen: str
) -> None:
    measured = []
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)
    seconds = iter([1.0, bf16])
    monkeypatch.setattr(choosing, "best_time", lambda *_: measured.append(1) or (next(seconds), True))
    opened: list[str] = []
    original = choosing.open_verified

    def counted(*args: Any, arithmetic: str, **more: Any) -> Any:
        opened.append(arithmetic)
        return original(*args, arithmetic=arithmetic, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(choosing, "open_verified", counted)
    (kept_in := tmp_path / "kept").mkdir()
    for _ in range(2):
        loaded = load(str(checkpoint), engine="torch", artefact_dir=kept_in)
        assert (loaded.info.arithmetic, loaded.info.fallback_reason) == (chosen, "")
        loaded.close()
    assert len(measured) == 2, "each arithmetic once"
    assert opened == ["f32", "bf16", *(["f32"] if chosen == "f32" else []), chosen], "bf16 stays open"
    (choice,) = (kept_in / "choices").glob("*-torch-*")
    assert json.loads(choice.read_text())["arithmetic"] == chosen


@pytest.mark.parametrize(
    ("precision", "rounding", "reason"),
    [
        ("bf16", UNBOUNDED, CHOOSES),
        ("int8", UNBOUNDED, CHOOSES),
        ("auto", UNBOUNDED, ""),
        ("bf16", 0.171, "rounding to bf16 changes a score by 0.17"),
        ("auto", 0.171, ""),
    ],
)
def test_a_model_whose_scores_rounding_changes_by_more_than_any_limit_runs_in_f32(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Any,
    rounding: float,
    reason: str,
) -> None:
    """The proof let Mixtral run in bf16, and a text for which it chose other experts was off by 0.06.

    It let a SqueezeBERT run in bf16 that was off by 0.18, as its probes had lost less than 0.1 by chance.
    """
    from model_store.engines.reference import Reference

    monkeypatch.setattr(Reference, "rounding", lambda *_: rounding)
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)
    options: Any = {"engine": "openvino", "precision": precision, "threads": 1}
    with closing(load(str(checkpoint), artefact_dir=tmp_path, **options)) as classifier:
        info = classifier.info
    assert (info.precision, info.arithmetic) == ("f32", "f32")
    assert reason in info.fallback_reason
    assert bool(reason) == bool(info.fallback_reason)


def test_what_was_measured_on_a_busy_machine_is_measured_again(
    checkpoint: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([(1.0, True), (0.95, False), (1.0, True), (0.5, True)])
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)
    monkeypatch.setattr(choosing, "best_time", lambda *_: next(measured))
    infos = [load(str(checkpoint), engine="torch", artefact_dir=tmp_path).info for _ in range(3)]
    assert [info.arithmetic for info in infos] == ["f32", "bf16", "bf16"]


def test_what_is_clear_on_a_busy_machine_is_not_measured_again(
    checkpoint: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([(1.0, False), (0.5, False)])
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)
    monkeypatch.setattr(choosing, "best_time", lambda *_: next(measured))
    infos = [load(str(checkpoint), engine="torch", artefact_dir=tmp_path).info for _ in range(2)]
    assert [info.arithmetic for info in infos] == ["bf16", "bf16"]


@pytest.mark.parametrize(
    ("seconds", "rounds", "best", "steady"),
    [
        ([9.0, 1.0, 1.05], 3, 1.0, True),
        ([9.0, 3.0, 2.0, 1.0, 1.5, 1.05], 6, 1.0, True),
        ([2.0**-number for number in range(30)], 8, 2.0**-7, False),
    ],
)
def test_times_are_taken_until_they_repeat(
    checkpoint: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: list[float],
    rounds: int,
    best: float,
    steady: bool,
) -> None:
    classifier = load(str(checkpoint), engine="torch", precision="f32", artefact_dir=kept)
    taken = iter(seconds)
    monkeypatch.setattr(choosing, "_seconds", lambda *_: next(taken))
    (path,) = (kept / "artefacts").glob("tiny-torch-float-*")
    assert choosing.best_time(classifier, read_probes(path)) == (best, steady)
    assert len(seconds) - len(list(taken)) == rounds


def test_the_time_of_other_processes_does_not_count() -> None:
    class Waiting(StubClassifier):
        def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
            time.sleep(0.2)
            return super().classify(batch)

    assert choosing._seconds(Waiting(), [[Tokens([7], 0, 0)]] * 3) < 0.3


def test_the_choice_for_a_card_is_remembered_by_its_name_and_timed_by_the_clock(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was remembered for the processor, and a small batch, whose start takes longest, was timed."""
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: False)
    monkeypatch.setattr(choosing.hardware, "card", lambda: "NVIDIA H200 (MIG 1g)")
    measured = iter([(1.0, True), (0.5, True)])
    monkeypatch.setattr(choosing, "best_time", lambda *_: next(measured))
    assert load(str(checkpoint), engine="torch", artefact_dir=tmp_path).info.arithmetic == "bf16"
    (choice,) = (tmp_path / "choices").glob("*-torch-NVIDIA_H200_MIG_1g_-*")
    assert json.loads(choice.read_text())["arithmetic"] == "bf16"


def test_a_card_is_timed_by_the_clock_in_batches_that_suit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard(StubClassifier):
        def __init__(self) -> None:
            super().__init__()
            self.info = replace(self.info, device="NVIDIA H200", full_tokens=4096)
            self.most = 0

        def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
            self.most = max(self.most, sum(map(len, batch)))
            time.sleep(0.01)
            return super().classify(batch)

    classifier = OnCard()
    assert choosing.best_time(classifier, probes())[0] >= 0.02
    assert 900 <= classifier.most <= 1024


def test_a_choice_that_failed_its_proof_is_remembered_with_the_reason(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Breaks], None]
) -> None:
    monkeypatch.setattr(choosing.hardware, "has_bf16", lambda: True)
    measured = iter([(1.0, True), (0.5, True)])
    monkeypatch.setattr(choosing, "best_time", lambda *_: next(measured))
    broken(lambda rows, _, arithmetic: arithmetic == "bf16" and one_row_of_32(rows))
    first, second = (load(str(checkpoint), engine="torch", artefact_dir=tmp_path).info for _ in range(2))
    assert first.arithmetic == second.arithmetic == "f32"
    assert first.fallback_reason == second.fallback_reason != ""


def test_answers_that_differ_by_more_have_a_revision_of_their_own(
    checkpoint: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    f32, bf16 = (
        load(str(checkpoint), engine="torch", precision=precision, artefact_dir=kept).info  # type: ignore[arg-type]
        for precision in ("f32", "bf16")
    )
    assert f32.revision == bf16.revision
    assert f32.identity == bf16.identity
    monkeypatch.setattr(choosing, "SAME_ANSWERS", 1e-5)
    other = load(str(checkpoint), engine="torch", precision="bf16", artefact_dir=kept).info
    assert other.revision != bf16.revision
    assert other.identity == bf16.identity


# -- the artefact ------------------------------------------------------------------------------------


def test_probes_are_sealed_and_small(checkpoint: Path, kept: Path) -> None:
    load(str(checkpoint), engine="torch", precision="f32", artefact_dir=kept).close()
    (path,) = (kept / "artefacts").glob("tiny-torch-float-*")
    assert PROBES in verify(path).files
    assert (path / PROBES).stat().st_size < 100_000
    sealed = read_probes(path)
    assert [len(tokens) for tokens in sealed.tokens][:47] == [*range(2, 33), *range(34, 65, 2)]
    assert max(len(tokens) for tokens in sealed.tokens) == 128
    assert 0 < sealed.rounding < 0.1


def test_the_reference_of_a_model_that_does_not_ignore_padding_is_computed_without(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[list[int]] = []
    from model_store.engines.reference import Reference

    answer = Reference.__call__

    def recorded(self: Reference, texts: Sequence[Sequence[int]]) -> Scores:
        shapes.append([len(text) for text in texts])
        return answer(self, texts)

    monkeypatch.setattr(Reference, "__call__", recorded)
    tokenizer = checkpoint / "tokenizer.json"
    padded, _ = compute_probes(read_checkpoint(checkpoint), tokenizer)
    batches = len(shapes)
    assert any(len({*shape}) > 1 for shape in shapes)
    monkeypatch.setattr(Reference, "inputs", lambda *_: Inputs(sharing="equal"))
    shapes.clear()
    alone, _ = compute_probes(read_checkpoint(checkpoint), tokenizer)
    assert all(len({*shape}) == 1 for shape in shapes)
    assert 3 * batches < len(shapes)
    assert padded.tokens == alone.tokens
    assert padded.reference == pytest.approx(alone.reference, abs=1e-6)
    assert padded.rounding == pytest.approx(alone.rounding, rel=0.5)


@pytest.mark.filterwarnings("ignore")
def test_measuring_the_rounding_left_it_in_the_gelu_that_models_share(tmp_path: Path) -> None:
    """An XLM could not be served by the process that had built it, and was rounded if it was built twice."""
    path = write_checkpoint(tmp_path / "xlm", "XLM")
    with closing(load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")) as first:
        assert first.info.proof
        assert first.info.proof.answers < 1e-6


def test_what_rounding_costs_is_what_bf16_of_torch_costs(tmp_path: Path) -> None:
    """Sums of embeddings and after layers were left exact: LayoutLM lost 0.040 where 0.016 was allowed."""
    from model_store.engines.reference import Reference

    checkpoint = read_checkpoint(write_family(tmp_path / "model", "layoutlm", max_positions=32))
    texts = [[[number]] for number in range(40)]
    reference, computed = Reference(checkpoint), Reference(checkpoint)
    exact = np.concatenate([reference(text) for text in texts])
    computed._model.bfloat16()
    wanted = np.abs(np.concatenate([computed(text) for text in texts]) - exact).max()
    assert wanted > 0.01
    assert reference.rounding(texts, exact) == pytest.approx(wanted, rel=0.1)


def test_a_card_that_fails_leaves_a_model_to_the_processor(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Floats:
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr(choosing.hardware, "card", lambda: "NVIDIA V1")
    monkeypatch.setattr("model_store.engines.pytorch.TorchRunner.run", fails)
    with closing(load(str(checkpoint), precision="f32", artefact_dir=tmp_path)) as served:
        assert served.info.engine == "openvino"
        assert served.info.fallback_reason == "; ".join(
            f"float weights in f32, {layout}: {choosing.RAISED}" for layout in ("packed", "padded")
        )


def test_int8_beside_a_card_is_left_to_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not start, since `auto` chose torch, which has no int8."""
    monkeypatch.setattr(choosing.hardware, "card", lambda: "NVIDIA H100")
    assert choosing.choose("auto", "int8") == ("openvino", "int8")
    assert choosing.choose("auto", "auto") == ("torch", "float")


def test_int8_seals_its_own_answers_too(checkpoint: Path, kept: Path) -> None:
    load(str(checkpoint), engine="openvino", precision="int8", threads=1, artefact_dir=kept).close()
    (path,) = (kept / "artefacts").glob("tiny-openvino-int8-*")
    sealed = read_probes(path)
    assert 0 < np.abs(sealed.answers - sealed.reference).max() < 0.3
    proof = verify(path).proof
    assert proof
    assert proof.reason == ""


def test_an_artefact_of_an_older_format_is_built_again_with_a_sentence(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(str(checkpoint), engine="torch", precision="f32", artefact_dir=tmp_path).close()
    (path,) = (tmp_path / "artefacts").glob("tiny-torch-float-*")
    content = json.loads((path / "manifest.json").read_text("utf-8"))
    (path / "manifest.json").write_text(json.dumps(content | {"format": 1}), "utf-8")
    with caplog.at_level("WARNING", logger="model_store.prepare"):
        load(str(checkpoint), engine="torch", precision="f32", artefact_dir=tmp_path).close()
    assert f"{path} has another format: building it again" in caplog.text
    assert read_manifest(path).revision == content["revision"]


def test_the_table_of_a_proof_has_the_largest_differences_and_the_flips_of_each_shape() -> None:
    def seen(probe: int, answer: float, batched: float, flipped: bool = False) -> Observation:
        return Observation(probe, "pair", "first", answer, batched, not flipped, flipped)

    proof = Proof(np.zeros((3, 2)), [seen(0, 0.1, 0.2), seen(1, 0.3, 0.05, True), seen(2, 0.4, 0.0)])
    _, *rows, _ = lines(proof, probes([1, 16, 17]))
    assert [re.sub(" +", " ", row) for row in rows] == [
        "1-16 - 0.30000 / 0.20000 !1 - 0.30000 / 0.20000 !1 -",
        "17-17 - 0.40000 / 0.00000 - 0.40000 / 0.00000 -",
    ]


def test_verify_run_prints_a_table_by_shape(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: Callable[[Breaks], None]
) -> None:
    command = ["verify", "--run", str(checkpoint), "--engine", "torch", "--artefact-dir", str(tmp_path)]
    assert model_store([*command, "--precision", "f32"]) == 0
    printed = capsys.readouterr().out
    assert "torch, float weights in f32, packed" in printed
    assert "torch, float weights in f32, padded" in printed
    assert [line.split()[0] for line in printed.splitlines() if " / " in line][:5] == [
        "1-16", "17-32", "33-48", "49-64", "65-128",
    ]  # fmt: skip
    assert printed.count("passed, one revision with f32") == 2
    broken(lambda rows, _weights, _arithmetic: one_row_of_32(rows))
    assert model_store([*command, "--precision", "f32"]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("FAILED: a text of 17 tokens alone") == 2
    assert "does not pass its proof in any arithmetic and layout" in printed.err
