"""The page at /docs: the whole contract, and nothing from elsewhere."""

from __future__ import annotations

import re

from tests.unit.api.pretended import Service


async def test_the_page_shows_every_route_parameter_and_status(service: Service) -> None:
    contract = (await service.client.get("/openapi.json")).json()
    answer = await service.client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    sections = dict(
        re.findall(r"<section><h2><code>(.*?)</code></h2>(.*?)</section>", answer.text, re.DOTALL)
    )
    routes = {
        f"{method.upper()} {path}": route
        for path, of in contract["paths"].items()
        for method, route in of.items()
    }
    assert sections.keys() == routes.keys()
    for name, route in routes.items():
        assert all(f"<td>{status}<td>" in sections[name] for status in route["responses"]), name
        assert all(f"<td>{one['name']} (" in sections[name] for one in route.get("parameters", ())), name


async def test_the_page_asks_nobody_else_and_runs_nothing(service: Service) -> None:
    """It was blank offline, and ran whatever a third party served."""
    answer = await service.client.get("/docs")
    assert not re.search(r"https?://|<script|<link|src=", answer.text)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
