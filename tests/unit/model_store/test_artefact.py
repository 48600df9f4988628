"""What a manifest.json that no build has written leads to: one sentence with the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.artefact import FileDigest, Manifest, has_manifest, read_manifest, verify, write_manifest
from model_store.errors import ModelCorrupt


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """A directory with a manifest and none of its files."""
    digest = "0" * 64
    names = "model.xml", "model.bin", "tokenizer.json", "probes.json"
    path = tmp_path / "artefact"
    path.mkdir()
    manifest = Manifest(
        name="tiny", revision=digest, identity=digest, source="/tiny", labels=("a", "b"), multi_label=False,
        max_tokens=128, temperature=1.0, engine="openvino", weights="float", rows=True, parameters=1,
        files={name: FileDigest(digest, 1) for name in names},
    )  # fmt: skip
    write_manifest(path, manifest)
    return path


def _changed(path: Path, **values: Any) -> None:
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"engine": "onnx"}, "engine is 'onnx': Input should be 'torch' or 'openvino'"),
        ({"engine": ["torch"]}, "engine is .'torch'.: Input should be 'torch' or 'openvino'"),
        ({"weights": "int4"}, "weights is 'int4': Input should be 'float' or 'int8'"),
        ({"labels": "ab"}, "labels is 'ab': Input should be a valid array"),
        ({"labels": [1, 2]}, "labels.0 is 1: Input should be a valid string"),
        ({"max_tokens": "128"}, "max_tokens is '128': Input should be a valid integer"),
        ({"max_tokens": 0}, "max_tokens is 0: Input should be greater than 0"),
        ({"temperature": None}, "temperature is None: Input should be a valid number"),
        ({"temperature": float("nan")}, "temperature is nan: Input should be a finite number"),
        ({"multi_label": "no"}, "multi_label is 'no': Input should be a valid boolean"),
        ({"revision": "../x"}, "revision is '../x': String should match pattern"),
        ({"files": {"model.bin": {"sha256": 1, "size": 1}}}, "files.model.bin.sha256 is 1: Input should"),
        ({"gate": {"rows": 1}}, "it has no gate.agreement"),
        ({"format": [3] * 99}, r"artefact format \[3, 3.{80,110}\.\.\., not 6"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(artefact: Path, value: dict[str, Any], seen: str) -> None:
    """An unknown engine ended in PackageNotFoundError, and others in errors of numpy or of a dictionary."""
    _changed(artefact, **value)
    with pytest.raises(Exception, match=seen) as raised:
        load(str(artefact))
    assert type(raised.value).__module__ == "model_store.errors"
    assert "build" in str(raised.value)


@pytest.mark.parametrize("content", ["[]", "3", "[" * 100_000, '"text"', "{}", b"\xff\xfe\x00\xdc"])
def test_what_is_no_manifest_is_refused_with_the_way_out(artefact: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode()
    (artefact / "manifest.json").write_bytes(raw)
    assert has_manifest(artefact) == (content != "{}")
    with pytest.raises(ModelCorrupt, match=r"cannot be read: .*; remove .*/artefact: it is built again"):
        read_manifest(artefact)


def test_a_corrupt_file_of_an_artefact_says_that_it_is_built_again(artefact: Path) -> None:
    (artefact / "model.xml").write_text("other")
    with pytest.raises(ModelCorrupt, match=r"model\.xml is corrupt: .*; remove .*: it is built again"):
        verify(artefact)
