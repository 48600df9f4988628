"""HEAD on every route that answers GET: the same status and headers, and nothing behind them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from api.dialect_names import DIALECTS
from api.settings import ApiSettings
from tests.compat.service import running
from tests.conftest import FakeRedis
from tests.cost.routes import every_route
from tests.operators import HEADERS, SETTING
from tests.unit.api.jobs.jobs_api import POSITIVE, JobsApi, serving
from tests.unit.api.service import assert_problem

READ = sorted({route.path for route in every_route() if route.method == "GET"})
# Those that differ from one answer to the next.
VARYING = {"x-request-id", "content-length", "date", "server-timing"}
NAMES = {"model": "stub", "name": "index.html", "version": "1", "request_id": "x", "lane": "bulk"}


@pytest.fixture
async def api(fake_redis: FakeRedis) -> AsyncIterator[JobsApi]:
    settings = ApiSettings(compat=",".join(DIALECTS), open="true", admin_keys=SETTING)
    async with serving(fake_redis, settings) as made:
        made.client.headers.update(HEADERS)
        yield made


def filled(path: str, job: str) -> str:
    """The path of a route with values for what is in braces."""
    values = {**NAMES, "job_id": job, "file_id": f"file-{job}-output", "batch_id": f"batch_{job}"}
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda found: values[found[1]], path)


@pytest.mark.parametrize("path", READ)
async def test_head_was_refused_on_routes_that_answer_get(api: JobsApi, path: str) -> None:
    job = await api.new("a", "b")
    api.finish(api.start(job), POSITIVE, POSITIVE)
    place = filled(path, job)
    asked, headed = await api.client.get(place), await api.client.head(place)
    assert headed.status_code == asked.status_code
    assert headed.content == b""
    same = [
        {name: one.headers[name] for name in one.headers if name not in VARYING} for one in (asked, headed)
    ]
    assert same[0] == same[1]
    wrong = await api.client.request("PATCH", place)
    assert_problem(wrong, 405, "method_not_allowed")
    assert {"GET", "HEAD"} <= {*wrong.headers["allow"].split(", ")}


async def test_head_of_a_stream_of_events_ends_before_the_job(api: JobsApi) -> None:
    job = await api.new("a")
    async with asyncio.timeout(30):
        headed = await api.client.head(f"/jobs/{job}/events")
    assert (headed.status_code, headed.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_the_body_of_a_probe_followed_its_head() -> None:
    """What follows HEAD on a connection that is kept is the answer to the next request."""
    with running() as service:
        place = urlsplit(service.url)
        for path in ("/livez", "/readyz", "/metrics", "/health", "/", "/openapi.json", "/none"):
            with closing(HTTPConnection(str(place.hostname), place.port, timeout=60)) as connection:
                for method in ("HEAD", "GET", "HEAD", "HEAD", "GET"):
                    connection.request(method, path)
                    answer = connection.getresponse()
                    assert answer.status == (404 if path == "/none" else 200)
                    assert bool(answer.read()) == (method == "GET"), path
