"""Files of weights that are broken or lie are refused in one sentence, whatever is wrong with them."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.artefact import check_seal
from model_store.checkpoint import read_checkpoint
from model_store.engines.graph import packed_graph
from model_store.errors import ModelCorrupt, ModelError, ModelUnsupported
from model_store.weights import Safetensors
from tests.lazy import load_file, save_file, torch
from tests.unit.model_store.checkpoints import copy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

_WORDS = "distilbert.embeddings.word_embeddings.weight"
_NORM = "distilbert.transformer.layer.0.output_layer_norm.weight"


def with_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the header of a safetensors file in place, or replaces it by what `change` returns."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    changed = change(header)
    new = changed if isinstance(changed, bytes) else json.dumps(changed or header).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + size :])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda about: about[_WORDS].update(data_offsets=[0, 10**15]), "ends at byte 10.* is incomplete"),
        (lambda about: about[_WORDS].update(data_offsets=[-8, 8]), "its tensor .* is {"),
        (lambda about: about[_WORDS].update(data_offsets=[8, 0]), "is incomplete"),
        (lambda about: about[_WORDS].update(shape=[-32, -30522]), "its tensor .* is {"),
        (lambda about: about[_WORDS].update(shape="ab"), "its tensor .* is {"),
        (lambda about: about[_WORDS].update(shape=[10**9, 10**9]), "its tensor .* is {"),
        (lambda about: about[_WORDS].update(dtype="F8_E4M3"), "as F8_E4M3, and only F64, F32, F16, BF16 can"),
        (lambda about: about[_NORM].update(shape=[], data_offsets=[0, 4]), "do not fit its config"),
        (lambda _: [1, 2], "its header is not an object"),
        (lambda _: b"[" * 100_000, "is not a safetensors file"),
    ],
)
def test_a_header_that_lies_is_refused(checkpoint: Path, tmp_path: Path, change: Any, why: str) -> None:
    """Weights with fewer dimensions, or a header nested too deep, ended a worker with a traceback."""
    path = copy(checkpoint, tmp_path / "model")
    with_header(path / "model.safetensors", change)
    with pytest.raises(ModelUnsupported, match=why):
        packed_graph(read_checkpoint(path), Safetensors(path))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    checkpoint: Path, tmp_path: Path, kind: str, value: float
) -> None:
    """One row of NaN in the embeddings passed the proof, and every text with that word failed."""
    path = copy(checkpoint, tmp_path / "model")
    tensors = {
        name: one.to(getattr(torch, kind)) for name, one in load_file(path / "model.safetensors").items()
    }
    tensors[_WORDS][-1] = value
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=f"has values in {_WORDS} that are not finite numbers"):
        load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")


def test_a_mask_that_is_stored_may_be_infinite(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    save_file({"mask": torch.full((2,), -torch.inf)}, tmp_path / "model.safetensors")
    Safetensors(tmp_path).require_finite()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\n", b"abc  config.json\n"])
def test_digests_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "SHA256SUMS").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=r"SHA256SUMS(, line 1,)? (cannot be read|is not a SHA-256)"):
        check_seal(tmp_path)


def test_digests_of_sha256sum_in_binary_mode_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"")
    empty = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
    (tmp_path / "SHA256SUMS").write_text(f"{empty} *config.json\n")
    assert check_seal(tmp_path) == ["config.json"]
    (tmp_path / "SHA256SUMS").write_text(f"{empty}  ../config.json\n")
    with pytest.raises(ModelError, match="names a file outside"):
        check_seal(tmp_path)
