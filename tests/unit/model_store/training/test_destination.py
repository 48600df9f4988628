"""Runs that share a destination, or that end between two of its steps, lose no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.checkpoint import CONFIG
from model_store.errors import BadTraining
from model_store.training.run import Destination


class Killed(BaseException):
    """The process ends here."""


def _model(path: Path, content: str) -> Path:
    path.mkdir()
    (path / CONFIG).write_text(content)
    return path


@pytest.mark.parametrize("step", range(2))
def test_a_kill_while_a_model_is_replaced_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The earlier model was removed before the new one was renamed."""
    out = _model(tmp_path / "topics", "earlier")
    destination, rename, steps = Destination(out, replace=True), Path.rename, iter(range(9))

    def rename_or_die(path: Path, target: Path) -> Path:
        if next(steps) == step:
            raise Killed
        return rename(path, target)

    with destination.held(), monkeypatch.context() as patched:
        _model(destination.work, "new")
        patched.setattr(Path, "rename", rename_or_die)
        with pytest.raises(Killed):
            destination.publish()
    assert (destination.work / CONFIG).read_text() == "new"
    with destination.held():
        assert (out / CONFIG).read_text() == "earlier"
        destination.publish()
    assert (out / CONFIG).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["topics"]


def test_a_kill_before_the_replaced_model_is_removed_leaves_it_to_the_next_run(tmp_path: Path) -> None:
    out = _model(tmp_path / "topics", "new")
    _model(tmp_path / ".topics.replaced", "earlier")
    with Destination(out, replace=True).held():
        assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["topics"]


def test_a_second_run_is_refused_while_one_is_training(tmp_path: Path) -> None:
    """Both wrote into one directory, and the second one failed at its last step."""
    out = tmp_path / "topics"
    with (
        Destination(out, replace=False).held(),
        pytest.raises(BadTraining, match=r"Another run is training .*topics: wait until it ends, or choose"),
        Destination(out, replace=False).held(),
    ):
        pass
    with Destination(out, replace=False).held():
        assert (tmp_path / ".topics.lock").exists()
    assert not list(tmp_path.iterdir())


def test_files_of_an_interrupted_run_of_other_data_do_not_become_part_of_the_model(tmp_path: Path) -> None:
    """The reference for drift of the earlier data stayed beside weights of the later."""
    destination = Destination(tmp_path / "topics", replace=False)
    with destination.held():
        (destination.work / "base").mkdir(parents=True)
        for name in ("reference.json", "checkpoint.safetensors"):
            (destination.work / name).touch()
        destination.clear("checkpoint.safetensors")
    assert [path.name for path in destination.work.iterdir()] == ["checkpoint.safetensors"]


def test_a_directory_that_appeared_during_a_run_is_not_removed(tmp_path: Path) -> None:
    """It was removed, though the command had no --replace."""
    destination = Destination(tmp_path / "topics", replace=False)
    with destination.held():
        _model(destination.work, "new")
        _model(destination.out, "another")
        with pytest.raises(BadTraining, match=r"cannot be written: .*; the model is in .*\.topics\.part"):
            destination.publish()
    assert (destination.out / CONFIG).read_text() == "another"


def test_a_directory_without_a_model_that_appeared_during_a_run_was_removed(tmp_path: Path) -> None:
    """With --replace, where only the start had looked for a model in it."""
    destination = Destination(tmp_path / "topics", replace=True)
    with destination.held():
        _model(destination.work, "new")
        destination.out.mkdir()
        (destination.out / "labels.csv").write_text("work")
        with pytest.raises(BadTraining, match="is not a checkpoint, so it is not replaced"):
            destination.publish()
    assert (destination.out / "labels.csv").read_text() == "work"
    assert (destination.work / CONFIG).read_text() == "new"
