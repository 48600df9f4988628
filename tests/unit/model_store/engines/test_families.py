"""Each packed family passes the proof on its sealed probes in every arithmetic, without a safer setting.

`pytest -m long tests/unit/model_store/engines/test_families.py` also builds int8 weights of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.__main__ import main as model_store
from tests.unit.model_store.checkpoints import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

BF16: list[tuple[Any, Any]] = [("torch", "bf16"), ("openvino", "bf16")]
INT8: list[tuple[Any, Any]] = [("openvino", "int8")]
FAMILIES = ["Electra", "Albert", "MPNet", "ModernBert", "DebertaV2"]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((family, BF16) for family in FAMILIES),
        *(pytest.param(family, INT8, marks=pytest.mark.long) for family in FAMILIES[:-1]),
        ("DebertaV2", INT8),
    ],
)
def test_every_arithmetic_of_a_family_passes_the_proof(
    family: str, settings: list[tuple[Any, Any]], tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "model", family, num_hidden_layers=2, max_position_embeddings=66)
    assert model_store(["seal", str(path), "--probes"]) == 0
    for engine, precision in settings:
        kept = tmp_path / "kept"
        model = load(str(path), engine=engine, precision=precision, threads=1, artefact_dir=kept)
        info = model.info
        assert (info.precision, info.layout, info.fallback_reason) == (precision, "packed", "")
        assert info.proof
        assert info.proof.reason == ""
        assert info.proof.batches > 70, "alone, in pairs and in full batches"
        model.close()
