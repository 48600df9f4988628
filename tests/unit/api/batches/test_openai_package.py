"""The batch flow of the `openai` package, unmodified, against an API in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.settings import ApiSettings
from tests.conftest import FakeRedis
from tests.lazy import Lazy, require_modules
from tests.unit.api.jobs.jobs_api import FAILURE, POSITIVE, JobsApi, serving

require_modules("openai")
openai: Any = Lazy("openai")


def client_of(api: JobsApi) -> Any:
    """A client whose requests go to the application, by the library that this version of the package uses."""
    library = pytest.importorskip(openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
    http = openai.DefaultAsyncHttpxClient(transport=library.ASGITransport(app=api.app))
    return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http, max_retries=0)


def line(number: int) -> bytes:
    body = {"model": "omni-moderation-latest", "input": f"text {number}"}
    request = {"custom_id": f"n{number}", "method": "POST", "url": "/v1/moderations", "body": body}
    return json.dumps(request).encode() + b"\n"


async def test_the_flow_of_a_batch(fake_redis: FakeRedis) -> None:
    async with (
        serving(fake_redis, ApiSettings(moderation_labels="POSITIVE=hate")) as api,
        client_of(api) as client,
    ):
        file = await client.files.create(file=("in.jsonl", b"".join(map(line, range(3)))), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/moderations",
            completion_window="24h",
            metadata={"day": "monday"},
        )
        assert (batch.status, batch.metadata) == ("validating", {"day": "monday"})
        api.finish(api.start(batch.id.removeprefix("batch_")), POSITIVE, FAILURE, POSITIVE)
        batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert (batch.request_counts.total, batch.request_counts.failed) == (3, 1)
        content = (await client.files.content(batch.output_file_id)).text
        assert [json.loads(one)["custom_id"] for one in content.splitlines()] == ["n0", "n2"]
        errors = (await client.files.content(batch.error_file_id)).text
        assert json.loads(errors)["custom_id"] == "n1"
        other = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/moderations", completion_window="24h"
        )
        assert (await client.batches.cancel(other.id)).status == "cancelled"
        assert [one.id async for one in client.batches.list(limit=1)] == [other.id, batch.id]
        assert (await client.files.retrieve(file.id)).bytes == file.bytes
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(openai.NotFoundError, match="no such file"):
            await client.files.retrieve(file.id)
