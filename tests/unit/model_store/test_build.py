"""Builds that meet others or changing files leave no wrong artefact, and delete nothing else."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_store import build as building
from model_store import load
from model_store.__main__ import main
from model_store.artefact import read_manifest, verify
from model_store.errors import ModelCorrupt, ModelError, ModelUnsupported
from model_store.prepare import prepare
from tests.families.checkpoints import write_family
from tests.lazy import load_file, save_file, transformers
from tests.unit.model_store.checkpoints import copy, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def build(model: Path, out: Path) -> int:
    """Runs the command."""
    arguments = ["--model", str(model), "--engine", "torch", "--precision", "f32", "--out", str(out)]
    return main(["build", *arguments])


def test_a_directory_that_is_no_artefact_is_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`build --out .` deleted whatever the directory had, and `--out` of the checkpoint its weights."""
    model = copy(checkpoint, tmp_path / "model")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(model)
    for out in (model, tmp_path, tmp_path / "file", tmp_path / "link"):
        assert build(model, out) == 2
        assert "is not an artefact, so it is not replaced: choose another" in capsys.readouterr().err
    assert (model / "model.safetensors").is_file()


def test_an_artefact_and_an_empty_directory_are_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for _ in range(2):
        assert build(checkpoint, tmp_path / "out") == 0
        verify(tmp_path / "out")


@pytest.fixture
def changing(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose weights are replaced while its model is written."""
    model = copy(checkpoint, tmp_path / "model")
    before = building._write_model

    def write(*arguments: Any) -> None:
        before(*arguments)
        content = bytearray((model / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (model / "model.safetensors").write_bytes(content)

    monkeypatch.setattr(building, "_write_model", write)
    return model


def test_a_checkpoint_that_changes_while_it_is_built_is_refused(changing: Path, tmp_path: Path) -> None:
    """The artefact had the old weights and the revision of the new ones."""
    with pytest.raises(ModelCorrupt, match="changed while it was being built; start again once its files"):
        load(str(changing), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")
    assert not list((tmp_path / "kept/artefacts").glob("model*"))


def test_a_checkpoint_that_is_replaced_before_its_build_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artefact got the directory of the former revision, which then answered for that one."""
    model, before = copy(checkpoint, tmp_path / "model"), building.build

    def build(*arguments: Any, **options: Any) -> Any:
        (model / "vocab.txt").touch()
        return before(*arguments, **options)

    monkeypatch.setattr(building, "build", build)
    with pytest.raises(ModelCorrupt, match="changed while it was being built"):
        prepare(str(model), "torch", "f32", tmp_path / "kept")
    assert not list((tmp_path / "kept/artefacts").glob("model*"))


def test_a_full_disk_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every error of the file system was "cannot be written to", even of a checkpoint that went away."""

    def full(source: Path, to: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(to))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(ModelError, match=r"cannot be built: No space left on device: .*config\.json"):
        prepare(str(checkpoint), "torch", "f32", tmp_path / "kept")


def test_threads_of_torch_that_waited_took_half_of_the_processor_time_of_a_build(
    checkpoint: Path, tmp_path: Path
) -> None:
    """transformers' tokenizer imported torch before the variable was set that lets these threads sleep."""
    stub = "import os\nos.write(1, os.environ['OMP_WAIT_POLICY'].encode())\nos._exit(7)\n"
    (tmp_path / "torch.py").write_text(stub)
    program = "import sys; from pathlib import Path; from model_store.build import build; "
    program += "build(Path(sys.argv[1]), Path(sys.argv[2]), name='m', engine='openvino')"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint), str(tmp_path / "out")],
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[3],
    )
    assert (done.stdout, done.returncode) == ("PASSIVE", 7), done.stderr


@pytest.mark.parametrize("name", ["m" * 250, "ü" * 120])
def test_a_model_may_have_the_longest_name_of_a_directory(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    """The name of its artefact was too long for the file system, reported as a manifest that is corrupt."""
    path = copy(checkpoint, tmp_path / name)
    out = prepare(str(path), "torch", "f32", tmp_path / "kept")
    assert read_manifest(out).name == name
    assert prepare(str(path), "torch", "f32", tmp_path / "kept") == out


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_openvino_cannot_convert_ended_in_a_traceback(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "xlm", "XLM")
    with pytest.raises(ModelUnsupported, match=r"a XLMForSequenceClassification \(.*; the engine torch may"):
        building.build(source, tmp_path / "out", name="xlm", engine="openvino")
    assert not (tmp_path / "out").exists()
    served = load(str(source), precision="f32", artefact_dir=tmp_path / "kept")
    served.close()
    assert served.info.engine == "torch"
    assert "OpenVINO cannot convert" in served.info.fallback_reason


def test_a_tokenizer_that_needs_another_package_ended_in_a_traceback(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "xlm", "XLM")
    (source / "tokenizer.json").unlink()
    (source / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (source / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMTokenizer"}')
    with pytest.raises(ModelUnsupported, match=r"transformers cannot read .*sacremoses"):
        building.build(source, tmp_path / "out", name="xlm", engine="torch")


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_runs_on_no_text_ended_in_a_traceback(tmp_path: Path) -> None:
    source = write_family(tmp_path / "t5", "t5", decoder_start_token_id=None)
    with pytest.raises(ModelUnsupported, match=r"a T5\w+, on texts of \d tokens \(.*start"):
        building.build(source, tmp_path / "out", name="t5", engine="torch")


@pytest.mark.parametrize("most", [3, 16], ids=["texts of a word", "longer ones"])
def test_a_model_that_gives_every_text_the_same_scores_is_refused(tmp_path: Path, most: int) -> None:
    """So does MRA, which computes attention on a GPU only, without an error."""
    source = write_family(tmp_path / "mra", "mra", max_positions=most)
    with pytest.raises(ModelUnsupported, match=r"gives the same scores to every text with .*a MraFor"):
        building.build(source, tmp_path / "out", name="mra", engine="torch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_the_same_scores_of_a_decoder_were_put_down_to_weights(family: str, tmp_path: Path) -> None:
    """transformers' pipeline gives them, too: the token that is classified comes first and reads no other."""
    source = write_family(tmp_path / "model", family, max_positions=32, is_decoder=True)
    pipeline = transformers.pipeline("text-classification", model=str(source), device="cpu", top_k=None)
    one, other = pipeline(["a good film", "the waiter forgot our drinks"])
    assert [label["score"] for label in one] == pytest.approx([label["score"] for label in other], abs=1e-6)
    why = r"the same scores to every text with .*: config.json has is_decoder true, .* set it to false if"
    with pytest.raises(ModelUnsupported, match=why):
        load(str(source), precision="f32", threads=1, artefact_dir=tmp_path / "kept")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["bert", "qwen2"], ids=["packed", "padded"])
def test_no_setting_passed_for_a_model_whose_scores_are_no_numbers(family: str, tmp_path: Path) -> None:
    """Although the engine was right: it gave none either."""
    source = write_family(tmp_path / "model", family, max_positions=16)
    tensors = {
        name: value * 1e30 if "norm" in name.lower() else value
        for name, value in load_file(source / "model.safetensors").items()
    }
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    why = (
        r"transformers itself gives scores that are not numbers with .*, such as to a text of \d tokens: its"
    )
    with pytest.raises(ModelUnsupported, match=f"{why} weights or its config.json are damaged"):
        load(str(source), precision="f32", threads=1, artefact_dir=tmp_path / "kept")


def test_weights_that_are_too_large_give_scores_that_are_no_numbers(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    for name in ("pre_classifier.weight", "classifier.weight"):
        tensors[name] *= 1e30
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"are not numbers with .* its weights or its config.json"):
        building.build(source, tmp_path / "out", name="large", engine="torch")


def test_an_error_of_a_library_while_building_ended_in_a_traceback(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a library divides\nby zero")

    monkeypatch.setattr(building, "_write_model", fails)
    why = r"a DistilBert\w+, cannot be built for torch .*ZeroDivisionError: a library divides\)"
    with caplog.at_level("DEBUG", logger="model_store.build"), pytest.raises(ModelUnsupported, match=why):
        prepare(str(checkpoint), "torch", "f32", tmp_path / "kept")
    assert any(record.exc_info for record in caplog.records)
