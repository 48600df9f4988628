"""A family of each layout is answered as transformers' pipeline answers; `make families` runs all 127."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from model_store.probes import CHOOSES
from tests.families.checkpoints import families, write_family
from tests.families.compare import LIMIT, compare
from tests.families.table import PAGE

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("family", "how"),
    [
        ("roberta", "openvino, packed"),
        ("camembert", "openvino, padded"),
        ("t5", "openvino, padded, alone"),
        ("xlm", "torch, padded"),
        ("convbert", "openvino, padded, equally long"),
    ],
)
def test_a_family_is_answered_as_transformers_answers(family: str, how: str, tmp_path: Path) -> None:
    found = compare(write_family(tmp_path / "model", family, max_positions=32), tmp_path / "kept", family)
    assert found.right, found
    assert found.how == how, "another filler than the family's pad would let fewer texts share a batch"
    assert found.spread > 1, "the model must tell texts apart"


def test_bf16_is_compared_within_the_limit_of_its_proof(tmp_path: Path) -> None:
    found = compare(
        write_family(tmp_path / "model", "gpt2", max_positions=32), tmp_path / "kept", "gpt2", "bf16"
    )
    assert found.right, found
    assert (found.precision, found.served in ("bf16", "f32")) == ("bf16", True)
    assert found.limit >= (0.01 if found.served == "bf16" else LIMIT)
    assert not replace(found, alone=2 * found.limit).right
    assert not replace(found, flipped=1).right


@pytest.mark.parametrize("family", ["mixtral", "phimoe"])
def test_experts_are_not_chosen_by_rounded_scores(family: str, tmp_path: Path) -> None:
    found = compare(
        write_family(tmp_path / "model", family, max_positions=32),
        tmp_path / "kept",
        family,
        "bf16",
        engine="torch",
    )
    assert (found.right, found.served) == (True, "f32")
    assert found.fallback == CHOOSES


def test_without_a_padding_token_each_text_runs_alone(tmp_path: Path) -> None:
    """It was `Cannot handle batch sizes > 1 if no padding token is defined`, as a traceback."""
    path = write_family(tmp_path / "model", "gpt2", "without_pad", max_positions=32)
    found = compare(path, tmp_path / "kept", "gpt2", engine="torch")
    assert found.right, found
    assert found.how == "torch, padded, alone"


def test_the_table_has_every_architecture_of_transformers() -> None:
    table = PAGE.read_text("utf-8").partition("<!-- families -->")[2].partition("<!-- end of families -->")[0]
    named = set(re.findall(r"[\w.-]+", table))
    assert named.issuperset(families()), families().keys() - named
