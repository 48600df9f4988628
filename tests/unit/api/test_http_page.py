"""The examples of docs/http.md and docs/errors.md answer as the pages say."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.api.service import Service

PAGES = "".join((Path(__file__).parents[3] / f"docs/{page}.md").read_text() for page in ("http", "errors"))
EXAMPLES = re.findall(r"```sh\n(curl .*?)\n```\n\n```\n(.*?)```", PAGES, re.DOTALL)
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
