"""`millrace pull`, as people run it, against a hub on the loopback."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model_store import load
from tests.integration.hugging_face import COMMIT, Hub, running
from tests.lazy import load_file, torch

REFERENCE = f"org/name@{COMMIT}"
NOWHERE = "http://127.0.0.1:9"
Pull = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    more = {"README.md": b"# card", "training_args.bin": b"x", "onnx/model.onnx": b"x"}
    with running(Hub(files | more)) as hub:
        yield hub


@pytest.fixture
def pull(hub: Hub, tmp_path: Path) -> Pull:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "millrace", "pull", *arguments, "--artefact-dir", str(tmp_path)]
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **environment}
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)

    return run


def target(tmp_path: Path) -> Path:
    return tmp_path / "hub" / "org" / f"name@{COMMIT}"


def test_a_pinned_model_is_pulled_sealed_and_served(
    pull: Pull, hub: Hub, tmp_path: Path, checkpoint: Path
) -> None:
    done = pull(REFERENCE, TQDM_POSITION="-1")
    assert done.returncode == 0, done.stderr
    assert REFERENCE in done.stdout
    assert "model.safetensors: 100%" in done.stderr
    assert {path.name for path in target(tmp_path).iterdir()} == {
        *(path.name for path in checkpoint.iterdir()),
        "origin.json",
        "README.md",
        "SHA256SUMS",
    }
    assert (target(tmp_path) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    pulled = load(f"org/name@{COMMIT[:7]}", engine="torch", precision="f32", artefact_dir=tmp_path)
    local = load(str(checkpoint), engine="torch", precision="f32", artefact_dir=tmp_path)
    assert pulled.info.name == "org/name"
    assert pulled.classify(pulled.tokenize(["good"])) == local.classify(local.tokenize(["good"]))

    asked = len(hub.asked)
    assert pull(REFERENCE).returncode == 0
    assert not [path for path, _ in hub.asked[asked:] if "/resolve/" in path], "nothing is fetched twice"


def test_the_hub_is_sent_versions_of_what_asks_and_nothing_else(pull: Pull, hub: Hub) -> None:
    assert pull(REFERENCE, AI_AGENT="planted").returncode == 0
    of_model = f"/api/models/{hub.repository}/revision/{COMMIT}", f"/{hub.repository}/resolve/{COMMIT}/"
    assert [path for path, _ in hub.asked if not path.startswith(of_model)] == []
    for agent in hub.agents:
        assert re.fullmatch(r"unknown/None; hf_hub/[\w.]+; python/[\w.]+", agent)


def test_a_branch_is_resolved_but_not_pulled(pull: Pull, tmp_path: Path) -> None:
    done = pull("org/name@main")
    assert done.returncode == 2
    assert f"main of org/name is currently commit {COMMIT}, which may change" in done.stderr
    assert f"millrace pull {REFERENCE}" in done.stderr
    assert not (tmp_path / "hub").exists()


def test_a_short_hash_is_enough(pull: Pull, tmp_path: Path) -> None:
    done = pull(f"org/name@{COMMIT[:7]}", "--to", str(tmp_path / "here"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "model.safetensors").is_file()


def test_a_download_that_breaks_off_is_tried_again(pull: Pull, hub: Hub, tmp_path: Path) -> None:
    hub.cut["model.safetensors"] = 100_000
    done = pull(REFERENCE)
    assert done.returncode == 0, done.stderr
    assert [path.rpartition("/")[2] for path, _ in hub.asked].count("model.safetensors") == 2
    assert (target(tmp_path) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_a_truncated_file_is_refused_and_the_next_pull_goes_on(pull: Pull, hub: Hub, tmp_path: Path) -> None:
    hub.served["model.safetensors"] = hub.files["model.safetensors"][:100_000]
    done = pull(REFERENCE)
    assert done.returncode == 2
    assert "the download of model.safetensors of org/name was interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not target(tmp_path).exists()
    hub.served.clear()
    assert pull(REFERENCE).returncode == 0
    assert hub.asked[-1][1] == "bytes=100000-"
    assert [path for path, _ in hub.asked].count(f"/org/name/resolve/{COMMIT}/config.json") == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_with_another_digest_is_refused(pull: Pull, hub: Hub, tmp_path: Path, name: str) -> None:
    hub.served[name] = hub.files[name][:-1] + b"?"
    done = pull(REFERENCE)
    assert done.returncode == 2
    assert f"{name} of {REFERENCE} has the wrong size or digest" in done.stderr
    assert not target(tmp_path).exists()
    hub.served.clear()
    assert pull(REFERENCE).returncode == 0


@pytest.mark.parametrize(
    ("reference", "environment", "sentence"),
    [
        (f"org/name@{'9' * 40}", {}, f"org/name has no revision {'9' * 40}."),
        (f"org/other@{COMMIT}", {}, "The hub has no model org/other, or the model is private."),
        (REFERENCE, {"HF_HUB_OFFLINE": "1"}, "org/name cannot be fetched: HF_HUB_OFFLINE is set."),
        (REFERENCE, {"HF_ENDPOINT": NOWHERE}, "org/name cannot be fetched: the hub does not answer."),
        (f"a/b/c@{COMMIT}", {}, "a/b/c is not a repository name: write org/name."),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_one_sentence(
    pull: Pull, reference: str, environment: dict[str, str], sentence: str
) -> None:
    done = pull(reference, **environment)
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (2, f"millrace pull: {sentence}")
    assert "Traceback" not in done.stderr


def _pickled(hub: Hub, checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    hub.files.pop("model.safetensors")
    hub.files["pytorch_model.bin"] = buffer.getvalue()


def test_a_pickle_is_converted_only_when_asked(
    pull: Pull, hub: Hub, tmp_path: Path, checkpoint: Path
) -> None:
    _pickled(hub, checkpoint)
    done = pull(REFERENCE)
    assert done.returncode == 2
    assert "only a pickle checkpoint" in done.stderr
    assert "--convert-pickle" in done.stderr

    done = pull(REFERENCE, "--convert-pickle")
    assert done.returncode == 0, done.stderr
    assert not (target(tmp_path) / "pytorch_model.bin").exists()
    converted = load_file(target(tmp_path) / "model.safetensors")
    wanted = load_file(checkpoint / "model.safetensors")
    assert converted.keys() == wanted.keys()
    assert all(torch.equal(converted[name], wanted[name]) for name in wanted)


def test_a_pickle_that_runs_code_is_not_run(pull: Pull, hub: Hub, tmp_path: Path, checkpoint: Path) -> None:
    _pickled(hub, checkpoint)
    trace = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save({"weight": _Evil(trace)}, buffer)
    hub.files["pytorch_model.bin"] = buffer.getvalue()
    done = pull(REFERENCE, "--convert-pickle")
    assert done.returncode == 2
    assert "cannot be converted" in done.stderr
    assert not trace.exists()
    assert not target(tmp_path).exists()


class _Evil:
    """Makes a directory when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)
