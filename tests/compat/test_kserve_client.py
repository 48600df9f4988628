"""KServe's own REST client, unmodified, for both versions of its protocol.

Its packages conflict with those of the tests, so it runs in an environment that `make other-clients` creates.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.compat.service import LONG, MAX_TEXTS, NO_WORKER, SHED, Service

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".clients/kserve/bin/python"
PROGRAM = ROOT / "tests/compat/kserve_client.py"
TEXTS = (["one text"], ["one", "\U0001f600 two", "", LONG])

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="needs KServe's client: `make other-clients`")


def calls(service: Service, *wanted: dict[str, Any]) -> list[dict[str, Any]]:
    """What the client returned or raised for each call."""
    run = subprocess.run(
        [PYTHON, PROGRAM],
        input=json.dumps({"url": service.url, "calls": wanted}),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(run.stdout)
    return found


def best(scores: dict[str, float]) -> str:
    return max(scores, key=lambda label: scores[label])


def test_version_2(service: Service) -> None:
    health = [{"what": "live"}, {"what": "ready"}, {"what": "model"}, {"what": "model", "model": "other"}]
    infer = [
        {"what": "infer", "texts": texts, "binary": binary} for texts in TEXTS for binary in (False, True)
    ]
    found = calls(service, *health, *infer)
    assert [one.get("returned") for one in found[:4]] == [True, True, True, False]
    for call, answer in zip(infer, found[4:], strict=True):
        scores = service.scores(*call["texts"])
        outputs = answer["returned"]["outputs"]
        assert answer["returned"]["id"] == "7"
        assert outputs["label"] == [best(one) for one in scores]
        for row, one in zip(outputs["scores"], scores, strict=True):
            assert row == pytest.approx(list(one.values()))


def test_version_1(service: Service) -> None:
    infer = [{"what": "infer", "version": "v1", "texts": texts} for texts in TEXTS]
    model = {"what": "model", "version": "v1"}
    live = {"what": "live", "version": "v1"}  # it was the web page
    alive, ready, *found = calls(service, live, model, *infer)
    assert (alive["returned"], ready["returned"]) == (True, True)
    for call, answer in zip(infer, found, strict=True):
        pairs = service.predict(*call["texts"])
        plain = service.http.post("/v1/models/stub:predict", json={"instances": call["texts"]}).json()
        assert answer["returned"] == plain
        assert len(plain["predictions"]) == len(pairs)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_errors(service: Service, version: str) -> None:
    too_many = {"what": "infer", "version": version, "texts": ["a"] * (MAX_TEXTS + 1)}
    unknown = {"what": "infer", "version": version, "texts": ["a"], "model": "other"}
    wrong = {"what": "infer", "version": "v1", "texts": [7]}
    many, other, number = calls(service, too_many, unknown, wrong)
    assert (many["raised"], many["status"]) == ("HTTPStatusError", 413)
    assert (number["raised"], number["status"]) == ("HTTPStatusError", 400)
    assert service.sentence({"text": ["a"] * (MAX_TEXTS + 1)}) in many["message"]
    assert (other["raised"], other["status"]) == ("HTTPStatusError", 404)


@pytest.mark.parametrize(("refusal", "status"), [(NO_WORKER, 503), (SHED, 429)])
def test_no_worker_and_shedding(service: Service, refusal: Any, status: int) -> None:
    new = [
        {"what": "infer", "version": version, "texts": [f"never seen by kserve, {version} {status}"]}
        for version in ("v1", "v2")
    ]
    with service.refusing(refusal):
        found = calls(service, *new)
    assert [one["status"] for one in found] == [status, status]
