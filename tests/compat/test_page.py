"""docs/clients.md is correct: its commands work, and its routes are those of the dialects."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from api.dialect_names import DIALECTS
from tests.compat.service import Service

PAGE = (Path(__file__).parents[2] / "docs/clients.md").read_text()
COMMANDS = re.findall(r"```sh\n(curl .*?)\n```", PAGE, re.DOTALL)
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_an_example_of_each_dialect() -> None:
    assert len(COMMANDS) + len(PROGRAMS) >= len(DIALECTS)
    assert set(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)) == set(DIALECTS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works(service: Service, command: str) -> None:
    words = shlex.split(command)
    path = next(word.partition("localhost:8000")[2] for word in words if word.startswith("localhost"))
    after = list(pairwise(words))
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl sends it
    headers |= dict(line.split(": ", 1) for word, line in after if word == "-H")
    body = next(value for word, value in after if word == "-d")
    answer = service.http.post(path, headers=headers, content=body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_works(service: Service, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    for module in re.findall(r"^(?:from|import) (\w+)", program, re.MULTILINE):
        pytest.importorskip(module, reason=f"{module} is not installed (compat-tests)")
    exec(program.replace("localhost:8000", service.url.removeprefix("http://")), {})
    assert capsys.readouterr().out


def test_every_route_is_on_the_page(service: Service) -> None:
    paths: dict[str, Any] = service.http.get("/openapi.json").json()["paths"]
    tagged = {
        path
        for path, methods in paths.items()
        for route in methods.values()
        if route["tags"][0].startswith("compatible")
    }
    named = set(re.findall(r"`(?:GET |POST )?(/[\w./{}:-]*)`", PAGE))
    assert {path.replace("/versions/{version}", "") for path in tagged} <= named
