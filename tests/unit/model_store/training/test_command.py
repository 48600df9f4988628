"""Options and bases with which `millrace train` cannot end well are refused before it begins."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from model_store.errors import BadTraining
from model_store.evaluate import read_tsv
from model_store.training import command
from model_store.training.base import load_network, load_tokenizer
from model_store.training.run import train
from tests.unit.model_store.checkpoints import copy


def parsed(*options: str) -> argparse.Namespace:
    """Reads the options of the command."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(["rows.csv", *options])


@pytest.mark.parametrize(
    ("option", "why"),
    [(f"--seed={10**14}", "--seed must be below"), ("--threads=-1", "--threads must be 0 or more")],
)
def test_numbers_that_torch_refuses_are_refused_by_name(option: str, why: str) -> None:
    """Such a seed ended the run with a traceback after everything had been read and measured."""
    with pytest.raises(argparse.ArgumentTypeError, match=why):
        command.order(parsed("-o", "out", option))


@pytest.mark.parametrize("options", [[], ["--replace"]])
def test_a_link_is_refused_before_training(checkpoint: Path, tmp_path: Path, options: list[str]) -> None:
    """Only the last step, after all the training, found that it cannot replace a link."""
    (tmp_path / "link").symlink_to(checkpoint)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(BadTraining, match="is a link, so no directory can replace it: give its target"):
            train(command.order(parsed("-o", str(tmp_path / name), *options)), print)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_base_with_a_broken_file_is_refused_in_one_sentence(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    base = copy(checkpoint, tmp_path / "base")
    (base / name).write_text("{")
    with pytest.raises(BadTraining, match=r"The tokenizer of .*base cannot be loaded: "):
        load_tokenizer(base)


def test_a_base_with_an_unknown_activation_is_refused_in_one_sentence(
    checkpoint: Path, tmp_path: Path
) -> None:
    base = copy(checkpoint, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "activation": "swoosh"}))
    with pytest.raises(BadTraining, match=r"base cannot be loaded: KeyError: .*swoosh"):
        load_network(base, ["a", "b"], multi_label=False, seed=1)


def test_a_text_may_have_other_separators_of_lines(tmp_path: Path) -> None:
    """A text with U+2028 was refused as a line without a label, and later lines got wrong numbers."""
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\na\u2028b\x85c\x0bd\tbad\ne\tgood\n", "utf-8")
    assert [row.labels for row in read_tsv(path, ("bad", "good"))] == [("bad",), ("good",)]
