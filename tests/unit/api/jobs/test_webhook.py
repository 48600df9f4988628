"""The webhook of a job: which URLs are accepted, and what the job says about deliveries."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from batcher.jobs.webhooks import Delivery, WebhookSender
from batcher.settings import JobSettings
from tests.unit.api.jobs.jobs_api import POSITIVE, JobsApi, Start
from tests.unit.api.service import assert_problem

SECRETS = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
ALLOWED = {"webhook_secrets": SECRETS, "webhook_networks": "127.0.0.0/8"}


async def test_a_job_without_a_webhook(api: JobsApi) -> None:
    assert (await api.submit("a")).json()["webhook"] is None


async def test_webhooks_are_off_by_default(api: JobsApi) -> None:
    problem = assert_problem(await api.submit("a", webhook_url="https://example.com"), 422, "invalid_request")
    assert "MILLRACE_WEBHOOK_SECRETS" in str(problem["detail"])
    assert api.held() == []


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "https://user:password@example.com"])
async def test_a_url_that_is_refused(start: Start, url: str) -> None:
    api = await start(webhook_secrets=SECRETS)
    problem = assert_problem(await api.submit("a", webhook_url=url), 422, "invalid_request")
    assert str(problem["detail"]).startswith("Webhook-URL must")
    assert api.held() == []


async def test_a_job_shows_its_deliveries_without_the_path_of_the_url(start: Start) -> None:
    api = await start(**ALLOWED)
    made = await api.submit("a", webhook_url="http://127.0.0.1:8080/token/secret")
    job = made.json()
    assert job["webhook"] == {"host": "127.0.0.1:8080", "attempts": [], "next_at": None}
    api.finish(api.start(job["id"]), POSITIVE)
    answers = [Delivery(error="the connection failed"), Delivery(204)]

    def post(*_: Any) -> Delivery:
        return answers.pop(0)

    sender = WebhookSender(api.store, JobSettings(**ALLOWED), post)  # type: ignore[arg-type]
    sender.send_next()
    webhook = (await api.get(f"/{job['id']}")).json()["webhook"]
    (attempt,) = webhook["attempts"]
    assert (attempt["status"], attempt["error"]) == (None, "the connection failed")
    assert webhook["next_at"] > attempt["at"]
    assert "secret" not in str(webhook)


async def test_a_cancelled_job_is_notified_too(start: Start) -> None:
    api = await start(**ALLOWED)
    job = (await api.submit("a", webhook_url="http://127.0.0.1:8080/")).json()
    cancelled = (await api.client.delete(f"/jobs/{job['id']}")).json()
    assert cancelled["webhook"]["next_at"] is not None


async def test_a_request_that_becomes_a_job_may_have_a_webhook(start: Start) -> None:
    api = await start(**ALLOWED)
    headers = {"prefer": "respond-async", "webhook-url": "http://127.0.0.1:8080/"}
    answer = await api.client.post("/predict", json={"text": ["a"]}, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["webhook"]["host"] == "127.0.0.1:8080"
