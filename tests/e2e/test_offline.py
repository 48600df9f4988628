"""Every process and command without a network: each looks for nothing but what is configured."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from millrace.__main__ import COMMANDS, _command, command_parsers
from model_store.__main__ import _parser as model_store_parser
from tests.forked import Forker
from tests.integration.hugging_face import COMMIT
from tests.lazy import require_modules
from tests.offline import Namespace, unavailable
from tests.servers import needs_server
from tests.service import wait_until
from tests.unit.model_store.checkpoints import copy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PYTHON = (sys.executable, "-P")
REFERENCE = f"org/name@{COMMIT}"
ROWS = [f"{number} is {word}" for number in range(40) for word in ("good", "bad")]
LABELS = ("LABEL_0", "LABEL_1") * 40
# Words after each command that runs by itself. TINY is a checkpoint, which needs torch.
ALONE = {
    "millrace config": "",
    "millrace completion": "bash",
    "millrace key new": "web",
    "millrace evaluate": "rows.csv --model TINY --precision f32 --artefact-dir KEPT",
    "millrace train": "rows.csv -o topics --base TINY --recipe linear",
    "millrace push": "TINY org/name",
    "model_store pull": REFERENCE,
    "millrace pull": REFERENCE,
    "model_store convert-pickle": "pickled",
    "model_store random": "--config tiny --out random",
    "model_store seal": "TINY",
    "model_store locate": "TINY",
    "model_store build": "--model TINY --engine openvino --precision int8 --out built --force",
    "model_store verify": "TINY --run --engine openvino --artefact-dir KEPT",
    "model_store info": "TINY --engine torch --artefact-dir KEPT",
    "model_store evaluate": "--data rows.tsv --model TINY --precision f32 --artefact-dir KEPT",
    "model_store predict": "hello",
}
# Those of them that import torch: forked from a process that has, which takes it five seconds.
TORCH = {
    "millrace evaluate",
    "millrace train",
    "model_store convert-pickle",
    "model_store random",
    "model_store build",
    "model_store info",
    "model_store evaluate",
}
SETTINGS = {"HF_TOKEN": "hf_test", "MILLRACE_THREADS": "1", "OMP_NUM_THREADS": "1"}
# Words after those that ask a running service.
SERVED = {
    "millrace predict": "good",
    "millrace classify": "rows.csv -o labelled.csv",
    "millrace status": "",
    "millrace top": "--frames 1",
    "millrace sample": "rows.csv -o sample.csv -n 2",
    "millrace trace": "planted-request",
    "millrace publish": "--model toy --shadow 1 stub@next",
    "millrace compare": "--model toy",
    "millrace console": "",
    "millrace forget text": "text",
    "millrace forget client": "web",
    "millrace forget revision": "0123",
}
REQUEST = """
from urllib.request import Request, urlopen
headers = {"X-Request-ID": "planted-request"}
urlopen(Request("http://127.0.0.1:8000/predict", b'{"text": ["good"]}', headers)).read()
"""
PROCESSES = ("api", "worker", "jobs")
STARTS = ("up", "serve")


def commands(parser: argparse.ArgumentParser, name: str) -> Iterator[str]:
    """The command with the actions below it, if there are any."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name
    for words, inner in (pair for action in below for pair in action.choices.items()):
        yield from commands(inner, f"{name} {words}")


def test_every_command_is_tried_without_a_network() -> None:
    parser, parsers = command_parsers()
    for name in COMMANDS:
        _command(name).add_arguments(parsers[name])
    found = {*commands(parser, "millrace"), *commands(model_store_parser(), "model_store")}
    processes = {f"millrace {name}" for name in (*PROCESSES, *STARTS)}
    assert found == {*ALONE, *SERVED, *processes}


def empty_namespace(folder: Path) -> Namespace:
    if reason := unavailable():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Namespace(folder)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    made = empty_namespace(tmp_path)
    yield made
    made.close()


_DATAGRAM = "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).connect_ex(('2001:db8::1', 53))"
PLANTED = {
    "telemetry.example": "socket.getaddrinfo('telemetry.example', 443)",
    "1 packets to other addresses": "socket.create_connection(('192.0.2.1', 443))",
    "2 packets to other addresses": f"{_DATAGRAM}; {_DATAGRAM}",
}


@pytest.mark.parametrize("found", PLANTED)
def test_a_process_that_asks_for_something_else_is_noticed(namespace: Namespace, found: str) -> None:
    """Also if it says nothing, and if it is a child that outlives the command."""
    asks = f"import os, socket, time\nif not os.fork():\n    time.sleep(0.5); {PLANTED[found]}"
    assert namespace.run(*PYTHON, "-c", asks).returncode == 0
    assert namespace.looked_for() == [found]


def test_the_hub_is_asked_for_only_by_a_pull_from_it(namespace: Namespace) -> None:
    pytest.importorskip("huggingface_hub")
    done = namespace.run(*PYTHON, "-m", "model_store", "pull", REFERENCE)
    assert done.returncode == 2, done.stdout
    assert namespace.looked_for() == ["huggingface.co"]


def written(folder: Path) -> None:
    """The files that commands are given."""
    table = [*zip(ROWS, LABELS, strict=True)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in table)]))
    (folder / "rows.tsv").write_text(
        "\n".join(["text\tlabel", *(f"{text}\t{label}" for text, label in table)])
    )
    (folder / "text").write_text(ROWS[0])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Namespace, Forker]]:
    """A namespace, a process in it that has imported torch, and the checkpoints `tiny` and `pickled`."""
    require_modules("torch", "transformers")
    namespace = empty_namespace(tmp_path_factory.mktemp("prepared"))
    written(namespace.folder)
    modules = ["transformers.models.distilbert.modeling_distilbert"]
    forker = Forker(modules, namespace.command, namespace.environment(SETTINGS))
    wait_until(namespace.processes, "the process that forks", 60)  # it is not left by what it forks
    done = namespace.fork(forker, "tests.unit.model_store.checkpoints", "tiny", "pickled", **SETTINGS)
    assert done.returncode == 0, done.stdout
    yield namespace, forker
    forker.close()
    namespace.close()


@pytest.fixture
def tiny(prepared: tuple[Namespace, Forker], tmp_path: Path) -> Path:
    """A checkpoint to change."""
    return copy(prepared[0].folder / "tiny", tmp_path / "tiny")


@pytest.fixture
def hub(namespace: Namespace, tiny: Path) -> Iterator[str]:
    """The address of a stand-in for the hub, inside."""
    serve = namespace.command(*PYTHON, "-m", "tests.integration.hugging_face", str(tiny))
    with subprocess.Popen(
        serve, env=namespace.environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


@pytest.mark.parametrize("command", sorted(ALONE.keys() - TORCH))
def test_a_command_looks_for_nothing_outside(
    request: pytest.FixtureRequest, namespace: Namespace, tmp_path: Path, command: str
) -> None:
    paths = {"TINY": str(tmp_path / "tiny"), "KEPT": str(request.getfixturevalue("kept"))}
    words = [paths.get(word, word) for word in ALONE[command].split()]
    if paths["TINY"] in words:
        request.getfixturevalue("tiny")
    settings = {**SETTINGS}
    if command in ("millrace push", "millrace pull", "model_store pull"):
        settings["HF_ENDPOINT"] = request.getfixturevalue("hub")
    written(tmp_path)
    done = namespace.run(*PYTHON, "-m", *command.split(), *words, **settings)
    assert done.returncode == 0, done.stdout
    assert namespace.looked_for() == []


@pytest.mark.parametrize("command", sorted(TORCH))
def test_a_command_with_torch_looks_for_nothing_outside(
    prepared: tuple[Namespace, Forker], kept: Path, command: str
) -> None:
    namespace, forker = prepared
    paths = {"TINY": "tiny", "KEPT": str(kept)}
    words = [paths.get(word, word) for word in ALONE[command].split()]
    done = namespace.fork(forker, *command.split(), *words, **SETTINGS)
    assert done.returncode == 0, done.stdout
    assert namespace.looked_for() == []


@pytest.fixture
def asking(namespace: Namespace) -> Iterator[Forker]:
    """A process inside that has imported the commands that ask a service: each start took half a second."""
    names = {command.split()[1] for command in SERVED}
    forker = Forker(
        [f"millrace.{name}" for name in sorted(names)], namespace.command, namespace.environment({})
    )
    wait_until(namespace.processes, "the process that forks", 60)  # it is not left by what it forks
    yield forker
    forker.close()


@pytest.mark.redis
@pytest.mark.parametrize("start", STARTS)
def test_a_service_and_those_who_ask_it_look_for_nothing_outside(
    request: pytest.FixtureRequest, namespace: Namespace, tmp_path: Path, start: str
) -> None:
    needs_server()
    written(tmp_path)
    asking = request.getfixturevalue("asking") if start == "up" else None
    log = tmp_path / "log"
    # Another test predicts with the embedded model, whose start takes longer.
    tiny = request.getfixturevalue("tiny") if start == "up" else None
    settings = {
        "MILLRACE_MODEL": f"{tiny},toy=stub" if tiny else "stub",
        "MILLRACE_PRECISION": "f32",
        "MILLRACE_ARTEFACT_DIR": str(request.getfixturevalue("kept")),
        "MILLRACE_WORKER_PORT": "9101",
        "MILLRACE_JOBS_PORT": "9102",
        "AIP_HTTP_PORT": "8000",
    }
    with log.open("w") as file:
        service = subprocess.Popen(
            namespace.command(*PYTHON, "-m", "millrace", start),
            env=namespace.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    try:
        wait_until(lambda: "ready after" in log.read_text() or service.poll() is not None, start, 90)
        assert service.poll() is None, log.read_text()
        running = "\n".join(namespace.processes().values())
        assert all(f"millrace {name}" in running for name in PROCESSES), running
        namespace.run(*PYTHON, "-c", REQUEST)
        for command, words in SERVED.items() if asking else ():
            done = namespace.fork(asking, *command.split(), *words.split())
            assert done.returncode == 0, f"{command}: {done.stdout}{log.read_text()}"
    finally:
        service.terminate()
        service.wait(60)
    assert namespace.looked_for() == []
