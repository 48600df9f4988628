"""Training a tiny model: it learns, can be interrupted anywhere, and equal recipes give equal weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from default_model import train
from default_model.convert import convert
from default_model.recipe import Recipe
from tests.lazy import Lazy, load_file, torch, transformers
from tests.unit.model_store.tiny_bert import write_bert, write_data

loop: Any = Lazy("model_store.training.loop")
training: Any = Lazy("default_model.trainer")
RECIPE = Recipe(epochs=2, batch_rows=4, learning_rate=5e-3, held_out=2, max_tokens=32, average_decay=0.9)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "bert")


@pytest.fixture
def start(bert: Path, tmp_path: Path) -> Path:
    convert(bert, tmp_path / "start")
    return tmp_path / "start"


def test_a_run_writes_a_plain_model_and_its_metrics(data: Path, bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert train.main(_arguments(data, bert, out, "--epochs", "12", "--learning-rate", "0.01")) == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    scores = training.classify(
        model, transformers.AutoTokenizer.from_pretrained(out), ["good film .", "bad film ."]
    )
    assert scores.argmax(axis=1).tolist() == [1, 0]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["recipe"]["epochs"] == len(metrics["epochs"]) == 12
    assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
    assert metrics["temperature"] == json.loads((out / "config.json").read_text())["millrace"]["temperature"]
    assert not (out / "checkpoint.safetensors").exists()


def test_the_difference_of_two_dropouts_is_part_of_the_loss(data: Path, start: Path) -> None:
    losses = []
    for weight in (1e4, 2e4, 3e4):
        recipe = replace(RECIPE, consistency=weight)
        trainer = training.Trainer(start, recipe, train.load_split(data, recipe))
        losses.append(trainer.learn(trainer.epochs[0][0]))
    assert losses[1] > losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)


def test_targets_lie_between_the_labels_and_what_the_teachers_say(
    data: Path, bert: Path, start: Path, tmp_path: Path
) -> None:
    teachers = [_taught(data, bert, tmp_path / f"teacher-{seed}", seed) for seed in (1, 2)]
    rows = [([3, 6, 8, 4], 1.0), ([3, 7, 8, 14, 4], 0.0)]
    ids, mask = torch.tensor([[*rows[0][0], 0], rows[1][0]]), torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    said = []
    for teacher in teachers:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(teacher).eval()
        said.append(model(input_ids=ids, attention_mask=mask).logits.softmax(dim=1)[:, 1])
    assert not torch.allclose(said[0], said[1], atol=1e-3)
    mean, labels = (said[0] + said[1]) / 2, torch.tensor([0.975, 0.025])
    for share, expected in ((0.0, labels), (0.25, 0.75 * labels + 0.25 * mean), (1.0, mean)):
        recipe = replace(RECIPE, teacher_share=share)
        trainer = training.Trainer(start, recipe, train.load_split(data, recipe), teachers)
        targets = trainer.targets(rows, ids, mask)
        assert torch.allclose(targets, expected, atol=5e-3)  # the trainer's teachers compute in bf16


def test_other_teachers_are_another_recipe(data: Path, bert: Path, start: Path, tmp_path: Path) -> None:
    teacher = _taught(data, bert, tmp_path / "teacher")
    split = train.load_split(data, RECIPE)
    trainer = training.Trainer(start, RECIPE, split, [teacher])
    next(trainer.steps())
    trainer.save(tmp_path / "checkpoint.safetensors")
    training.Trainer(start, RECIPE, split, [teacher]).restore(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="another recipe"):
        training.Trainer(start, RECIPE, split).restore(tmp_path / "checkpoint.safetensors")


def test_a_teacher_with_another_tokenizer_is_refused(
    data: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = _taught(data, bert, tmp_path / "teacher")
    tokenizer = teacher / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("film", "movie"))
    assert train.main(_arguments(data, bert, tmp_path / "out", "--teacher", str(teacher))) == 2
    assert "another tokenizer.json" in capsys.readouterr().err


def test_the_difference_is_the_mean_of_both_divergences() -> None:
    even, sure = torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.9, 0.1]]))
    there = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    back = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert float(training.difference(even, sure)) == pytest.approx((there + back) / 2)
    assert float(training.difference(sure, sure)) == 0.0


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_an_interrupted_run_ends_with_the_same_weights(
    data: Path, start: Path, tmp_path: Path, stop: int
) -> None:
    split = train.load_split(data, RECIPE)
    whole = training.Trainer(start, RECIPE, split)
    for _ in whole.steps():
        pass

    first = training.Trainer(start, RECIPE, split)
    for step in first.steps():
        if step == stop:
            break
    first.save(tmp_path / "checkpoint.safetensors")
    second = training.Trainer(start, RECIPE, split)
    second.restore(tmp_path / "checkpoint.safetensors")
    rest = list(second.steps())

    assert rest == list(range(stop + 1, whole.total_steps + 1))
    assert _same(whole, second)
    assert whole.history == second.history


def test_the_command_continues_where_it_was_interrupted(data: Path, bert: Path, tmp_path: Path) -> None:
    train.train(data, bert, tmp_path / "whole", RECIPE)
    out = tmp_path / "resumed"
    convert(bert, out / "base")
    trainer = training.Trainer(out / "base", RECIPE, train.load_split(data, RECIPE))
    for step in trainer.steps():
        if step == 5:
            break
    trainer.save(out / "checkpoint.safetensors")
    train.train(data, bert, out, RECIPE)
    whole, resumed = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", out))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_recipe_is_refused(
    data: Path, bert: Path, start: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(bert, out / "base")
    trainer = training.Trainer(start, RECIPE, train.load_split(data, RECIPE))
    next(trainer.steps())
    trainer.save(out / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="another recipe"):
        train.train(data, bert, out, replace(RECIPE, seed=2))


def test_holding_everything_out_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match="nothing is left to train on"):
        train.load_split(data, replace(RECIPE, held_out=12))


def test_missing_data_is_one_sentence(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(_arguments(tmp_path / "nowhere", bert, tmp_path / "out")) == 2
    assert capsys.readouterr().err.startswith("train: ")


def test_batches_hold_every_row_once_within_the_token_bound() -> None:
    rows = [([1] * (1 + number % 40), float(number % 2)) for number in range(500)]
    batches = loop.bucket(rows, most_rows=16, most_tokens=200, rng=Random(0))
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    for batch in batches:
        lengths = [len(row[0]) for row in batch]
        assert len(batch) <= 16
        assert len(batch) * max(lengths) <= 200
        assert max(lengths) - min(lengths) <= 2


def test_answers_keep_the_order_of_the_texts(start: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(start)
    tokenizer = transformers.AutoTokenizer.from_pretrained(start)
    texts = ["film " * (number % 7) + "good" for number in range(70)]
    together = training.classify(model, tokenizer, texts)
    alone = np.concatenate([training.classify(model, tokenizer, [text]) for text in texts])
    assert np.abs(together - alone).max() < 1e-5


def _arguments(data: Path, base: Path, out: Path, *options: str) -> list[str]:
    small = ["--batch-rows", "4", "--held-out", "2", "--max-tokens", "32", "--average-decay", "0.9"]
    small += [f"--{part}-share=0" for part in ("noise", "template", "neutral", "long", "natural")]
    folders = ["--data", str(data), "--base", str(base), "--out", str(out)]
    return [*folders, *small, "--threads", "1", *options]


def _taught(data: Path, bert: Path, out: Path, seed: int = 1) -> Path:
    train.train(data, bert, out, replace(RECIPE, seed=seed, epochs=6, learning_rate=1e-2, consistency=0.0))
    return out


def _same(one: training.Trainer, other: training.Trainer) -> bool:
    weights, others = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)
