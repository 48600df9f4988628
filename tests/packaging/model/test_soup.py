"""The mean of two runs' weights is a separate model, with metrics and a temperature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from default_model import train
from default_model.recipe import Recipe
from tests.lazy import Lazy, load_file, torch
from tests.unit.model_store.tiny_bert import write_bert, write_data

soups: Any = Lazy("default_model.soup")
RECIPE = Recipe(epochs=1, batch_rows=8, held_out=2, max_tokens=32)


def test_the_mean_of_two_runs(tmp_path: Path) -> None:
    data, bert = write_data(tmp_path / "data"), write_bert(tmp_path / "bert")
    runs = [tmp_path / "a", tmp_path / "b"]
    for seed, run in enumerate(runs):
        train.train(data, bert, run, replace(RECIPE, seed=seed))
    result = soups.soup(runs, data, tmp_path / "soup")
    one, other, mean = (load_file(folder / "model.safetensors") for folder in (*runs, tmp_path / "soup"))
    for name, tensor in mean.items():
        middle = (one[name].float() + other[name].float()) / 2
        assert torch.allclose(tensor.float(), middle, atol=1e-3)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert json.loads((tmp_path / "soup" / "metrics.json").read_text())["runs"][1]["recipe"]["seed"] == 1
    config = json.loads((tmp_path / "soup" / "config.json").read_text())
    assert result["temperature"] == config["millrace"]["temperature"]


def test_a_run_counts_as_often_as_it_is_named(tmp_path: Path) -> None:
    data, bert = write_data(tmp_path / "data"), write_bert(tmp_path / "bert")
    runs = [tmp_path / "a", tmp_path / "b"]
    for seed, run in enumerate(runs):
        train.train(data, bert, run, replace(RECIPE, seed=seed))
    soups.soup([runs[0], runs[0], runs[1]], data, tmp_path / "soup", offset=0.5)
    states = [load_file(folder / "model.safetensors") for folder in (*runs, tmp_path / "soup")]
    one, other, mean = (state["classifier.weight"].float() for state in states)
    assert torch.allclose(mean, (2 * one + other) / 3, atol=1e-4)
    one, other, mean = (state["classifier.bias"].float() for state in states)
    assert torch.allclose(mean, (2 * one + other) / 3 + torch.tensor([-0.25, 0.25]), atol=1e-3)


def test_runs_with_different_held_out_sentences_are_refused(tmp_path: Path) -> None:
    data, bert = write_data(tmp_path / "data"), write_bert(tmp_path / "bert")
    runs = [tmp_path / "a", tmp_path / "b"]
    for held_out, run in enumerate(runs, start=2):
        train.train(data, bert, run, replace(RECIPE, held_out=held_out))
    with pytest.raises(ValueError, match="different sentences"):
        soups.soup(runs, data, tmp_path / "soup")
