"""A cascade with real processes: an API, a worker of both models, a jobs worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.answers import right_json
from tests.service import Service, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.redis]

TEXTS = [f"text {number}" for number in range(40)]


def test_both_models_answer_requests_and_jobs(start_service: Callable[..., Service]) -> None:
    running = start_service(model="stub,large=stub@large", cascades="quick=stub:large:0.8")
    running.start_jobs()

    def ready() -> bool:
        return bool(running.http.get("/models").json()["cascades"][0]["state"] == "ready")

    wait_until(ready, "both models to be served", 60)
    predictions = right_json(TEXTS)
    best = [max(pair["score"] for pair in pairs) for pairs in predictions]
    answer = running.http.post("/models/quick/predict", json={"text": TEXTS})
    assert answer.status_code == 200, answer.text
    spoke = [name.partition("@")[0] for name in answer.json()["models"]]
    assert spoke == ["stub" if score >= 0.8 else "large" for score in best]
    assert answer.json()["predictions"] == predictions

    job = running.http.post("/jobs?model=quick", json={"text": TEXTS}).json()["id"]
    wait_until(lambda: running.http.get(f"/jobs/{job}").json()["status"] == "finished", "the job", 60)
    done = running.http.get(f"/jobs/{job}").json()
    assert done["model"].startswith("quick@")
    results = running.http.get(f"/jobs/{job}/predictions").json()["predictions"]
    assert results == predictions
