"""`python -m model_store` from the first line typed to the last line printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from model_store import ModelInfo, Tokens
from model_store.__main__ import main
from model_store.artefact import read_manifest
from model_store.errors import ModelError
from model_store.evaluate import evaluate, read_tsv
from model_store.figures import figures, fit_thresholds, mcnemar
from model_store.hub import Snapshot
from model_store.prepare import hub_directory
from model_store.stub import StubClassifier
from tests.unit.model_store.checkpoints import copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = ["good film\tLABEL_0", "bad film\t1", "the film is a\t0", "not bad\tLABEL_1"] * 5
    path = tmp_path / "data.tsv"
    path.write_text("\n".join(["sentence\tlabel", *rows]) + "\n", "utf-8")
    return path


class Fixed(StubClassifier):
    """Answers with the scores it was made with, in turn."""

    def __init__(self, rows: Sequence[list[float]], labels: tuple[str, ...]) -> None:
        super().__init__()
        self._rows = list(rows)
        old = self.info
        self.info = ModelInfo(
            "fixed", old.revision, labels, 512, False, "stub", "f32", "packed", 0, old.tolerance, old.identity
        )

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        return [self._rows.pop(0) for _ in batch]


def test_build_check_verify_info_predict(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, kept = tmp_path / "out", ["--artefact-dir", str(tmp_path / "kept")]
    build = ["build", "--model", str(checkpoint), "--engine", "torch", "--precision", "bf16", *kept]
    assert main([*build, "--out", str(out), "--name", "mine", "--check", str(data)]) == 0
    manifest = read_manifest(out)
    assert manifest.name == "mine"
    assert manifest.gate
    assert (manifest.gate.rows, manifest.gate.agreement, manifest.gate.passed) == (20, 1.0, True)
    assert "passed: agrees with torch f32 on 100.00% of 20 texts" in capsys.readouterr().out

    assert main(["verify", str(out)]) == 0
    assert f"4 files match the manifest, revision {manifest.revision}" in capsys.readouterr().out
    assert main(["info", "--model", str(out), *kept]) == 0
    printed = capsys.readouterr().out
    assert "engine      torch, float weights" in printed
    assert "parameters  1.0 M" in printed
    assert main(["info", str(out), *kept]) == 0
    assert capsys.readouterr().out == printed
    assert main(["predict", "good", "bad", "--model", str(out), *kept]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("LABEL_0 0.")
    assert second.endswith("  bad")


@pytest.mark.parametrize(
    ("revision", "pulled"), [("@" + 20 * "ab", True), ("@abab", True), ("@main", False), ("", False)]
)
def test_only_a_commit_is_pulled(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, revision: str, pulled: bool
) -> None:
    asked: list[tuple[str, str]] = []
    places: list[Path] = []

    def resolve(repository: str, revision: str) -> Snapshot:
        asked.append((repository, revision))
        return Snapshot(repository, 20 * "ab", {})

    monkeypatch.setattr("model_store.hub.resolve", resolve)
    monkeypatch.setattr("model_store.hub.pull", lambda snapshot, to, convert: places.append(to))
    status = main(["pull", f"org/name{revision}", "--artefact-dir", str(tmp_path)])
    printed = capsys.readouterr()
    assert asked == [("org/name", revision[1:] or "main")]
    place = hub_directory(tmp_path, "org/name", 20 * "ab")
    if pulled:
        assert (status, places) == (0, [place])
        assert printed.out == f"org/name@{20 * 'ab'} is available in {place}\n"
    else:
        assert (status, places) == (2, [])
        assert f"main of org/name is currently commit {20 * 'ab'}" in printed.err


def test_seal_makes_verify_notice(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    path = copy(checkpoint, tmp_path / "model")
    assert main(["verify", str(path)]) == 2
    assert "neither manifest.json nor SHA256SUMS" in capsys.readouterr().err
    assert main(["seal", str(path)]) == 0
    assert main(["verify", str(path)]) == 0
    (path / "tokenizer.json").write_text("{}")
    capsys.readouterr()
    assert main(["verify", str(path)]) == 2
    assert f"{path}/tokenizer.json is corrupt" in capsys.readouterr().err


def test_evaluate_prints_and_writes_its_figures(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["evaluate", "--model", str(checkpoint), "--data", str(data), "--engine", "torch"]
    assert main([*command, "--json", str(tmp_path / "out.json"), "--artefact-dir", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert figures["texts"] == 20
    assert f"accuracy           {figures['accuracy']:.4f} (95 %: " in capsys.readouterr().out


def test_figures_are_those_worked_out_by_hand() -> None:
    scores = [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0], [0.3, 0.3, 0.4]]
    evaluation = evaluate(Fixed(scores, ("x", "y", "z")), list("abcd"), np.eye(3, dtype=bool)[[0, 1, 1, 2]])
    assert evaluation.right.tolist() == [True, True, False, True]
    result = evaluation.figures
    assert result.confusion == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    assert result.accuracy == 0.75
    assert result.interval_95 == pytest.approx((0.3006, 0.9544), abs=1e-4)
    x, y, z = result.classes
    assert (x.precision, x.recall, x.f1, x.texts) == (0.5, 1.0, pytest.approx(2 / 3), 1)
    assert (y.precision, y.recall, y.f1, y.texts) == (1.0, 0.5, pytest.approx(2 / 3), 2)
    assert (z.precision, z.recall, z.f1, z.texts) == (1.0, 1.0, 1.0, 1)
    assert result.f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    # Each text is alone in its bin of confidence.
    assert result.calibration_error == pytest.approx((0.1 + 0.2 + 0.6 + 0.6) / 4)


def test_evaluate_refuses_several_labels_for_a_model_that_gives_each_text_one(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    from millrace.__main__ import main as millrace

    path = tmp_path / "data.csv"
    path.write_text("label,text\nLABEL_0;LABEL_1,one\nLABEL_1,two\n")
    command = ["evaluate", str(path), "--text-column", "text", "--label-column", "label", "--separator", ";"]
    command += ["--model", str(checkpoint), "--engine", "torch", "--artefact-dir", str(tmp_path / "kept")]
    assert millrace(command) != 0
    assert "gives each text one label: leave out --separator." in capsys.readouterr().err


def test_evaluate_of_a_table_compares_two_models(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    from millrace.__main__ import main as millrace

    path = tmp_path / "data.csv"
    path.write_text("topic,review\n" + "".join(f"LABEL_{n % 2},text number {n}\n" for n in range(20)))
    command = [
        "evaluate",
        str(path),
        "--text-column",
        "review",
        "--label-column",
        "topic",
        "--engine",
        "torch",
    ]
    command += ["--model", str(checkpoint), "--artefact-dir", str(tmp_path / "kept")]
    assert millrace([*command, "--against", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert (
        "McNemar            right only here 0, only there 0, p = 1: the difference can be chance" in printed
    )
    assert millrace([*command, "--cascade", str(checkpoint)]) == 0
    assert "A cascade does not pay: " in capsys.readouterr().out
    assert millrace([*command, "--against", str(tmp_path / "nowhere")]) == 2
    output = capsys.readouterr()
    assert "nowhere is not a directory" in output.err
    assert output.out == "", "the first model was measured before the second was looked for"
    path.write_text("topic,review\nLABEL_0,a\nother,b\n")
    assert millrace(command) == 2
    assert "has the label 'other' (1 texts); those of tiny are LABEL_0, LABEL_1" in capsys.readouterr().err


def test_several_labels_a_text_are_evaluated_with_thresholds() -> None:
    scores = np.array([[0.9, 0.6], [0.4, 0.6], [0.2, 0.1]])
    expected = np.array([[True, False], [True, True], [False, False]])
    found = figures(("x", "y"), scores, expected, [0.3, 0.65])
    assert found.accuracy == pytest.approx(2 / 3)
    assert [one.recall for one in found.classes] == [1.0, 0.0]
    assert found.confusion == ()
    assert sum(one.count for one in found.bins) == 6
    assert fit_thresholds(scores, expected) == [0.4, 0.5]


def test_mcnemar_is_the_binomial_test_of_what_only_one_has_right() -> None:
    one = np.array([True] * 8 + [False] * 2 + [True] * 5)
    other = np.array([False] * 8 + [True] * 2 + [True] * 5)
    only_one, only_other, p_value = mcnemar(one, other)
    assert (only_one, only_other) == (8, 2)
    assert p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(one, one)[2] == 1.0


@pytest.mark.parametrize("line", ["no tab", "text\t7", "text\tMAYBE"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "data.tsv"
    path.write_text(f"text\tlabel\ngood\t1\n{line}\n", "utf-8")
    with pytest.raises(ModelError, match=r"data\.tsv, line 3: (expected text<TAB>label|1 column, but)"):
        read_tsv(path, ("NEGATIVE", "POSITIVE"))


def test_quotes_belong_to_the_text(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.write_text('text\tlabel\n"quoted"\t1\n"so-so, he said\t0\n', "utf-8")
    assert [row.text for row in read_tsv(path, ("NEGATIVE", "POSITIVE"))] == ['"quoted"', '"so-so, he said']


@pytest.mark.parametrize("words", ["predict a", "verify default --run", "evaluate --data {data}"])
def test_less_than_no_thread_was_put_down_to_the_model(words: str, data: Path, capsys: Capture) -> None:
    """Its engines failed, so that it could not be served."""
    assert main([*words.format(data=data).split(), "--threads", "-1"]) == 2
    assert capsys.readouterr().err == "--threads must be 0 or more.\n"


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\n", "utf-8")
    with pytest.raises(ModelError, match="contains no labelled text"):
        read_tsv(path, ("NEGATIVE", "POSITIVE"))


def test_random_is_the_same_for_a_seed_and_never_overwrites(tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("torch", reason="torch is not installed on this Python")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        command = ["random", "--config", "tiny", "--out", str(tmp_path / name), "--seed", seed]
        assert main(command) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert main(["random", "--config", "tiny", "--out", str(tmp_path / "a")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["random", "--config", "huge", "--out", str(tmp_path / "d")]) == 2
    assert "Unknown shape huge" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], "COMMAND"),
        (["random"], "--out"),
        (["build", "--model", "x"], "--out"),
        (["evaluate", "--model", "x"], "--data"),
    ],
    ids=str,
)
def test_what_a_command_cannot_do_without_is_named(capsys: Capture, words: list[str], missing: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"the following arguments are required: {missing}" in capsys.readouterr().err
