"""docs/http.md is correct: its commands work, and its error codes are those of the code."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import api
import batcher.errors
from api.errors import CODE_OF, STATUS_OF
from batcher.core.cascade import Mismatch
from tests.unit.api.pretended import Service

PAGE = (Path(__file__).parents[3] / "docs/http.md").read_text()
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n\n```\n(.*?)```", PAGE, re.DOTALL)
# Headers whose values differ between responses.
VARYING = {"x-request-id", "server-timing", "content-length", "x-model"}


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 7


@pytest.mark.parametrize(("command", "answer"), EXAMPLES)
async def test_an_example_answers_as_the_page_says(service: Service, command: str, answer: str) -> None:
    words = shlex.split(command)
    path = next(word.partition("localhost:8000")[2] for word in words if word.startswith("localhost"))
    after = list(pairwise(words))
    headers = dict(value.split(": ", 1) for word, value in after if word == "-H")
    body = next((value for word, value in after if word == "-d"), None)
    if body is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")  # as curl does
    response = await service.client.request("POST" if body else "GET", path, headers=headers, content=body)
    head, _, said = answer.partition("\n\n")
    status, *lines = head.strip().splitlines()
    assert status == f"HTTP/1.1 {response.status_code} {response.reason_phrase}"
    for line in lines:
        name, _, value = line.partition(": ")
        assert name in response.headers
        if name not in VARYING or name.title() in headers:
            assert response.headers[name] == value
    if said:
        assert re.findall(r'"[a-z_]+":', response.text) == re.findall(r'"[a-z_]+":', said)


def test_every_code_is_on_the_page_and_no_other() -> None:
    table = PAGE.partition("### When it does not succeed")[2].partition("\n## Health")[0]
    rows = [line for line in table.splitlines() if re.match(r"\| \d{3}", line)]
    named = {code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert {kind.code for kind in STATUS_OF} <= named
    source = "".join(path.read_text() for path in Path(api.__path__[0]).rglob("*.py"))
    known = {*CODE_OF.values(), *(kind.code for kind in STATUS_OF), *re.findall(r'code="(\w+)"', source)}
    assert named <= known | set(get_args(get_type_hints(Mismatch)["code"]))


def test_every_domain_error_has_a_status() -> None:
    base = batcher.errors.MillraceError
    kinds = [kind for kind in vars(batcher.errors).values() if isinstance(kind, type)]
    assert {kind for kind in kinds if issubclass(kind, base) and kind is not base} == set(STATUS_OF)
