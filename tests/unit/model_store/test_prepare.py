"""From a reference to a verified artefact: found, built once, and refused when one byte differs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import load, prepare
from model_store.__main__ import main
from model_store.artefact import Gate, Manifest, read_manifest, seal, verify
from model_store.build import build
from model_store.checkpoint import Checkpoint, read_checkpoint
from model_store.errors import (
    EngineUnavailable,
    GateFailed,
    ModelCorrupt,
    ModelError,
    ModelNotFound,
    ModelUnsupported,
)
from model_store.pickles import convert_pickle
from tests.forkserver import CONTEXT
from tests.lazy import torch
from tests.unit.model_store.checkpoints import copy, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def artefact(checkpoint: Path, kept: Path) -> Path:
    """The checkpoint, built for OpenVINO."""
    load(str(checkpoint), engine="openvino", precision="f32", artefact_dir=kept).close()
    (path,) = (kept / "artefacts").glob("tiny-openvino-float-*")
    return path


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_is_built_once(checkpoint: Path, kept: Path, artefact: Path) -> None:
    before = (artefact / "manifest.json").stat().st_mtime_ns
    load(str(checkpoint), engine="openvino", precision="f32", artefact_dir=kept).close()
    assert (artefact / "manifest.json").stat().st_mtime_ns == before
    assert not (kept / "artefacts" / f".{artefact.name}.building").exists()


def test_an_artefact_is_a_reference_too_and_fits_only_its_own_engine(artefact: Path, kept: Path) -> None:
    loaded = load(str(artefact), precision="f32", artefact_dir=Path("/nowhere"))
    assert (loaded.info.engine, loaded.info.precision, loaded.info.name) == ("openvino", "f32", "tiny")
    assert loaded.info.revision == read_manifest(artefact).revision
    loaded.close()
    with pytest.raises(EngineUnavailable, match="built for openvino with float weights, not for torch auto"):
        load(str(artefact), engine="torch", artefact_dir=kept)


@pytest.mark.parametrize("name", ["model.bin", "model.xml", "tokenizer.json", "probes.json"])
def test_one_changed_byte_of_an_artefact_is_refused_by_name(
    artefact: Path, tmp_path: Path, name: str
) -> None:
    spoilt = copy(artefact, tmp_path / "spoilt")
    flip_byte(spoilt / name)
    with pytest.raises(ModelCorrupt, match=f"spoilt/{name} is corrupt"):
        load(str(spoilt), artefact_dir=tmp_path)
    (spoilt / name).unlink()
    with pytest.raises(ModelCorrupt, match=f"spoilt/{name} is missing"):
        verify(spoilt)


def test_one_changed_byte_of_a_sealed_checkpoint_is_refused_by_name(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = copy(checkpoint, tmp_path / "default")
    seal(default, [path.name for path in read_checkpoint(default).files()])
    monkeypatch.setattr(prepare, "DEFAULT", default)
    load("default", engine="torch", precision="f32", artefact_dir=tmp_path).close()
    flip_byte(default / "model.safetensors")
    with pytest.raises(ModelCorrupt, match=r"default/model\.safetensors is corrupt"):
        load("default", engine="torch", precision="f32", artefact_dir=tmp_path)


def test_other_weights_are_another_revision(checkpoint: Path, tmp_path: Path) -> None:
    other = copy(checkpoint, tmp_path / "other")
    flip_byte(other / "model.safetensors")
    infos = [
        load(str(path), engine="torch", precision=precision, artefact_dir=tmp_path / "kept").info
        for path in (checkpoint, other)
        for precision in ("f32", "bf16")
    ]
    assert len({info.identity for info in infos}) == 2
    assert len({info.revision for info in infos}) == 2, "equal answers share a name in f32 and bf16"


def test_workers_that_start_at_once_build_one_artefact(checkpoint: Path, tmp_path: Path) -> None:
    workers = [
        CONTEXT.Process(target=_load, args=(str(checkpoint), tmp_path / "kept", tmp_path / f"{number}"))
        for number in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0, 0]
    answers = {(tmp_path / f"{number}").read_text() for number in range(2)}
    assert len(answers) == 1
    assert len(list((tmp_path / "kept/artefacts").glob("tiny-*"))) == 1


def test_openvino_runs_without_torch_or_transformers(artefact: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from model_store import load;"
        f"m = load({str(artefact)!r}, artefact_dir=Path('/nowhere'));"
        "print(m.classify(m.tokenize(['good'])));"
        "heavy = {'torch', 'transformers', 'nncf', 'huggingface_hub'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sealed_checkpoint_is_built_and_served_without_torch(checkpoint: Path, tmp_path: Path) -> None:
    """In a process in which importing torch fails, and with everything that a worker imports."""
    path = copy(checkpoint, tmp_path / "sealed")
    assert main(["seal", str(path), "--probes"]) == 0
    script = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "safetensors", "nncf"):
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
import batcher.__main__
from pathlib import Path
from model_store import load
model = load({str(path)!r}, engine="openvino", precision="f32", artefact_dir=Path({str(tmp_path)!r}))
assert model.info.proof.reason == "", model.info
assert model.classify(model.tokenize(["good"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_sealed_roberta_has_the_positions_of_its_family(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "Roberta")
    assert main(["seal", str(path), "--probes"]) == 0
    served = load(str(path), engine="openvino", precision="f32", threads=1, artefact_dir=tmp_path / "kept")
    served.close()
    assert (served.info.layout, served.info.fallback_reason) == ("packed", "")


def test_probes_that_the_seal_does_not_pin_are_computed_again(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    (path / "probes.json").write_text("{}")
    seal(path, [one.name for one in read_checkpoint(path).files()])
    load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept").close()
    assert main(["seal", str(path), "--probes"]) == 0
    (path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match=r"model/tokenizer_config\.json is corrupt"):
        load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")


def test_without_torch_an_unbuilt_checkpoint_says_what_to_do(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(
        EngineUnavailable,
        match=r"lacks torch to build it: pip install .millrace-server.build.. .in a checkout: `make install`",
    ):
        load(str(checkpoint), engine="openvino", artefact_dir=tmp_path)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("org/name@abcdef0", "has not been pulled; run: millrace pull org/name@abcdef0"),
        ("org/name@main", "is not a pinned reference"),
        ("no/such/directory", r" is fetched with `millrace pull no/such/directory@main`\.$"),
        ("name", r" is fetched with `millrace pull ORG/name@main`\.$"),
        ("./nodir", r"^\./nodir is not a directory, and not default, stub or org/name@commit either\.$"),
    ],
)
def test_references_that_lead_nowhere(tmp_path: Path, reference: str, sentence: str) -> None:
    with pytest.raises(ModelNotFound, match=sentence):
        load(reference, artefact_dir=tmp_path)


def test_a_pulled_reference_is_found_by_a_short_hash(checkpoint: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "org"
    copy(checkpoint, hub / f"name@{'ab' * 20}")
    assert prepare.locate("org/name@abababa", tmp_path) == ("org/name", hub / f"name@{'ab' * 20}")
    copy(checkpoint, hub / f"name@abababa{'0' * 33}")
    with pytest.raises(ModelNotFound, match="matches 2 pulled commits"):
        prepare.locate("org/name@abababa", tmp_path)


def test_a_pickle_is_refused_with_the_way_to_convert_it(checkpoint: Path, tmp_path: Path) -> None:
    pickled = copy(checkpoint, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelUnsupported, match=f"only a pickle .* convert-pickle {pickled}"):
        load(str(pickled), artefact_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["DistilBertForMaskedLM"]}, "is not a text classifier"),
        ({"millrace": {"temperature": -1}}, "must be greater than 0"),
    ],
)
def test_configs_that_cannot_be_served(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(ModelUnsupported, match=sentence):
        load(str(path), artefact_dir=tmp_path)


def test_missing_weights_are_not_made_up(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy(checkpoint, tmp_path / "model")
    weights = load_file(path / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"lacks 1 of the model's weights, such as classifier\.weight"):
        load(str(path), engine="torch", artefact_dir=tmp_path)


def test_the_tokenizer_may_be_an_old_one(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    vocab = json.loads((path / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)), "utf-8")
    old = load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")
    new = load(str(checkpoint), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")
    text = ["The waiter wasn't kind, café!"]
    assert [list(tokens.ids) for tokens in old.tokenize(text)] == [
        list(one.ids) for one in new.tokenize(text)
    ]


def test_a_failing_gate_leaves_nothing_unless_forced(checkpoint: Path, tmp_path: Path) -> None:
    def check(path: Path, manifest: Manifest, built_from: Checkpoint) -> Gate:
        assert (path / "model.safetensors").is_file()
        return Gate(
            rows=100, agreement=0.98, accuracy=0.80, reference_accuracy=0.85, same_alone=1.0, passed=False
        )

    out = tmp_path / "out"
    with pytest.raises(GateFailed, match=r"agrees with torch f32 on 98\.00% of 100 texts"):
        build(checkpoint, out, name="x", engine="torch", check=check)
    assert not list(tmp_path.iterdir())
    manifest = build(checkpoint, out, name="x", engine="torch", check=check, force=True)
    assert verify(out) == manifest
    assert manifest.gate
    assert not manifest.gate.passed


def test_another_format_asks_for_a_new_build(artefact: Path, tmp_path: Path) -> None:
    path = copy(artefact, tmp_path / "old")
    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 0}), "utf-8")
    with pytest.raises(ModelUnsupported, match="build it again"):
        verify(path)
    (path / "manifest.json").write_text("{", "utf-8")
    with pytest.raises(ModelCorrupt, match="cannot be read"):
        verify(path)


def test_a_directory_that_cannot_be_written_to(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written to"):
        load(str(checkpoint), engine="torch", artefact_dir=tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"../outside.bin": {"sha256": "0" * 64, "size": 1}}, "names a file outside its directory"),
        ({"/etc/hostname": {"sha256": "0" * 64, "size": 1}}, "names a file outside its directory"),
        ({"model.bin": None}, "does not list model.bin"),
        ({"model.xml": None}, "does not list model.xml"),
        ({"tokenizer.json": None}, "does not list tokenizer.json"),
        ({"probes.json": None}, "does not list probes.json"),
    ],
)
def test_finding_23_a_manifest_names_nothing_outside_and_all_that_is_read(
    artefact: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = copy(artefact, tmp_path / "spoilt")
    content = json.loads((path / "manifest.json").read_text("utf-8"))
    files = {name: pinned for name, pinned in (content["files"] | change).items() if pinned}
    (path / "manifest.json").write_text(json.dumps(content | {"files": files}), "utf-8")
    with pytest.raises(ModelCorrupt, match=sentence):
        verify(path)


def test_finding_23_a_file_that_the_manifest_does_not_list_is_refused(artefact: Path, tmp_path: Path) -> None:
    path = copy(artefact, tmp_path / "spoilt")
    (path / "config.json").write_text("{}")
    with pytest.raises(ModelCorrupt, match=r"spoilt/config\.json is not in the manifest"):
        verify(path)


def test_finding_23_shards_and_seals_stay_in_their_folder(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    (path / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}), "utf-8")
    with pytest.raises(
        ModelCorrupt, match=r"names a file outside its directory: '\.\./outside\.safetensors'"
    ):
        load(str(path), engine="torch", artefact_dir=tmp_path / "kept")
    index.write_text(json.dumps({"weight_map": ["a"]}), "utf-8")
    with pytest.raises(ModelUnsupported, match="has no weight_map of file names"):
        load(str(path), engine="torch", artefact_dir=tmp_path / "kept")
    (path / "SHA256SUMS").write_text(f"{'0' * 64}  ../outside.safetensors\n", "utf-8")
    with pytest.raises(ModelCorrupt, match="names a file outside its directory"):
        load(str(path), engine="torch", artefact_dir=tmp_path / "kept")


def test_finding_23_a_pickle_is_converted_without_the_secrets_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spy := tmp_path / "spy").mkdir()
    record = f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps(dict(os.environ)))"
    (spy / "sitecustomize.py").write_text(f"import json, os\n{record}\n")
    monkeypatch.syspath_prepend(spy)
    monkeypatch.setenv("MILLRACE_API_KEYS", "secret")
    with pytest.raises(ModelUnsupported, match="cannot be converted"):
        convert_pickle(tmp_path)
    seen = json.loads((tmp_path / "seen").read_text())
    assert "PATH" in seen
    assert "secret" not in seen.values()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (lambda: {"a": torch.ones(99_999)}, "ended by signal 25, perhaps because memory ran out"),
        (lambda: {"a": torch.ones(9), "epoch": 3}, "is not what torch.save"),
    ],
)
def test_a_pickle_that_is_not_converted_leaves_the_directory_as_it_was(
    tensors: Callable[[], dict[str, Any]], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed while it wrote left its temporary file there."""
    (limits := tmp_path / "limits").mkdir()
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    kill = "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)"
    (limits / "sitecustomize.py").write_text(f"import resource, signal\n{limit}\n{kill}\n")
    monkeypatch.syspath_prepend(limits)
    (model := tmp_path / "model").mkdir()
    torch.save(tensors(), model / "pytorch_model.bin")
    (model / "model.safetensors").write_bytes(b"earlier")
    with pytest.raises(ModelUnsupported, match=reason):
        convert_pickle(model)
    assert sorted(path.name for path in model.iterdir()) == ["model.safetensors", "pytorch_model.bin"]
    assert (model / "model.safetensors").read_bytes() == b"earlier"


def _load(path: str, kept: Path, answer: Path) -> None:
    loaded = load(path, engine="torch", precision="f32", threads=1, artefact_dir=kept)
    answer.write_text(json.dumps(loaded.classify(loaded.tokenize(["good", "bad"]))))
