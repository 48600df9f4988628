"""The page at /docs: Swagger UI, with nothing from another host."""

from __future__ import annotations

import re

import pytest

from tests.unit.api.service import Service


async def test_the_page_loads_its_own_files_and_the_contract(service: Service) -> None:
    page = (await service.client.get("/docs")).text
    named = re.findall(r'<(?:script|link|img)\b[^>]* (?:src|href)="([^"]+)"', page)
    assert {name.rpartition(".")[2] for name in named} == {"js", "css", "svg"}
    for name in named:
        answer = await service.client.get("/" + name)
        assert answer.status_code == 200, name
        assert int(answer.headers["content-length"]) > 100
    assert 'url: "openapi.json"' in (await service.client.get("/static/docs.js")).text


async def test_the_page_asks_no_other_host(service: Service) -> None:
    """With assets from a CDN, the page is blank offline and runs third-party scripts."""
    answer = await service.client.get("/docs")
    assert not re.search(r"(?:src|href|url)\s*[=:]\s*[\"'](?:https?:)?//", answer.text)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; ")
    assert not re.search(r"<script(?![^>]*\ssrc=)", answer.text)


@pytest.mark.parametrize("asked", ["bytes=abc", "bytes=999999999-", "bytes=0-9"])
async def test_a_range_of_a_file_that_is_none_got_an_error_without_the_three_fields(
    service: Service, asked: str
) -> None:
    path = "/static/console.css"
    whole = await service.client.get(path)
    answer = await service.client.get(path, headers={"range": asked})
    assert (answer.status_code, answer.content) == (200, whole.content)
    assert answer.headers["accept-ranges"] == "none"
