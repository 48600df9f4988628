from __future__ import annotations

import json
import math
import random
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import ModelError, Tokens
from model_store.artefact import digest, read_manifest, verify
from model_store.drift_reference import (
    FEATURES,
    REFERENCE,
    build_reference,
    encode_reference,
    measure,
    psi,
    read_reference,
)
from model_store.errors import ModelCorrupt
from model_store.inputs import PLAIN
from model_store.measuring import Measuring, write_reference
from model_store.stub import StubClassifier


def measured(texts: int = 500, seed: int = 1) -> list[tuple[float, ...]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(texts):
        positive = rng.random()
        tokens = Tokens(range(rng.randint(3, 60)), truncated=False, unknown=0)
        rows.append(measure(tokens, [1 - positive, positive], multi_label=False))
    return rows


def test_a_certain_answer_has_no_entropy_and_an_undecided_one_all_of_it() -> None:
    tokens = Tokens([1, 2, 3, 4], truncated=True, unknown=1)
    assert measure(tokens, [0.0, 1.0], multi_label=False) == (1, 1.0, 0.0, 4, 1.0, 0.5)
    assert measure(tokens, [0.25] * 4, multi_label=False)[2] == pytest.approx(1.0)
    assert measure(tokens, [0.5, 0.5, 1.0], multi_label=True)[2] == pytest.approx(2 / 3)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12))
def test_the_index_is_zero_for_equal_shares_and_never_negative(counts: list[int]) -> None:
    assert psi(counts, counts) == 0.0
    assert psi(counts, counts[::-1]) >= 0.0


def test_the_index_follows_its_definition() -> None:
    many = 10**9  # so that the half text in each bin does not show
    expected = 0.3 * math.log(0.8 / 0.5) + -0.3 * math.log(0.2 / 0.5)
    assert psi([many, many], [0.8 * many, 0.2 * many]) == pytest.approx(expected)


def test_bins_of_a_reference_hold_about_a_tenth_each() -> None:
    reference = build_reference("r", 2, measured(2000))
    for name in ("confidence", "entropy", "tokens"):
        counts = reference.features[name].counts
        assert len(counts) == 10
        assert min(counts) > 120
    assert sum(reference.features["label"].counts) == 2000
    assert reference.features["truncated"].counts == (2000, 0)


def test_scores_that_hardly_differ_share_a_bin() -> None:
    """A precision that moves each score by a little must not move texts from bin to bin."""
    tokens = Tokens(range(9), truncated=False, unknown=0)
    sure = [[0.05 + number / 1e6, 0.95 - number / 1e6] for number in range(500)]
    reference = build_reference("r", 2, [measure(tokens, row, multi_label=False) for row in sure])
    assert len(reference.features["confidence"].edges) == 1
    assert reference.features["tokens"].edges == ()


def test_a_reference_of_few_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 200 texts, not 3"):
        build_reference("r", 2, measured(3))
    with pytest.raises(ModelError, match="not 0"):
        Measuring(StubClassifier()).reference()


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    reference = build_reference("r", 2, measured())
    assert write_reference(reference, tmp_path).name == REFERENCE
    assert read_reference(tmp_path) == reference


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "features": {"label": 3}}'])
def test_a_broken_reference_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / REFERENCE).write_text(content)
    with pytest.raises(ModelCorrupt, match=REFERENCE):
        read_reference(tmp_path)


def test_bins_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    content = json.loads(encode_reference(build_reference("r", 2, measured())))
    content["features"]["tokens"]["counts"].append(1)
    (tmp_path / REFERENCE).write_text(json.dumps(content))
    with pytest.raises(ModelCorrupt, match="bins of tokens"):
        read_reference(tmp_path)


def test_no_reference_and_one_of_another_format_are_none(tmp_path: Path) -> None:
    assert read_reference(tmp_path) is None
    (tmp_path / REFERENCE).write_text('{"format": 99}')
    assert read_reference(tmp_path) is None


def test_the_manifest_pins_a_reference_that_was_written_into_an_artefact(tmp_path: Path) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json", "probes.json")
    for name in names:
        (tmp_path / name).write_text(name)
    manifest = {
        "name": "m", "revision": "0" * 64, "source": "", "labels": ["A", "B"], "multi_label": False,
        "max_tokens": 512, "temperature": 1.0, "engine": "torch", "precision": "f32", "rows": True,
        "parameters": 1, "tolerance": 1e-5,
        "identity": "1" * 64, "weights": "float", 
        "files": {name: asdict(digest(tmp_path / name)) for name in names},
        "gate": None, "format": read_format(), "inputs": asdict(PLAIN),
    }  # fmt: skip
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    measuring = Measuring(StubClassifier())
    measuring.classify(measuring.tokenize([f"text number {number}" for number in range(300)]))
    write_reference(measuring.reference(), tmp_path)
    assert REFERENCE in verify(tmp_path).files
    assert read_manifest(tmp_path).revision == "0" * 64
    (tmp_path / REFERENCE).write_text("{}")
    with pytest.raises(ModelCorrupt, match="corrupt"):
        verify(tmp_path)


def read_format() -> int:
    from model_store.artefact import FORMAT

    return FORMAT


def test_every_feature_is_in_the_reference() -> None:
    assert tuple(build_reference("r", 2, measured()).features) == FEATURES
