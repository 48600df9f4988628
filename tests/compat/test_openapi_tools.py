"""/openapi.json in the tools that read it: validators, and generators of clients whose clients are then used.

They run in the environments that `make other-clients` creates.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.compat.service import Service
from tests.tools import needs

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".clients/openapi/bin"
REDOCLY = ROOT / "node_modules/.bin/redocly"

pytestmark = pytest.mark.skipif(not TOOLS.exists(), reason="needs tools for OpenAPI: `make other-clients`")

WITH_OPENAPI_PYTHON_CLIENT = """
import sys
from millrace_api_client import Client
from millrace_api_client.api.compatible_openai import openai_post_v1_moderations as moderate
from millrace_api_client.api.compatible_vllm import vllm_post_classify as classify
from millrace_api_client.api.predict import classify_predict_post as predict
from millrace_api_client.models import ClassifyRequest, ModerationRequest, PredictRequest

client = Client(base_url=sys.argv[1])
(pairs,) = predict.sync(client=client, body=PredictRequest(text=["one text"])).predictions
print({pair.label: pair.score for pair in pairs})
answer = classify.sync(client=client, body=ClassifyRequest(input_="one text"))
print(dict(zip(["NEGATIVE", "POSITIVE"], answer.data[0].probs)))
result = moderate.sync(client=client, body=ModerationRequest(input_="one text")).results[0]
print({"NEGATIVE": result.category_scores["harassment"]})
"""
WITH_OPENAPI_GENERATOR = """
import sys
import openapi_client as api

client = api.ApiClient(api.Configuration(host=sys.argv[1]))
asked = api.ClassifyPredictPostRequest(api.PredictRequest(text=["one text"]))
found = api.PredictApi(client).classify_predict_post(asked).actual_instance
print({pair.label: pair.score for pair in found.predictions[0]})
asked = api.ClassifyRequest(input=api.Input("one text"))
answer = api.CompatibleVllmApi(client).vllm_post_classify(asked)
print(dict(zip(["NEGATIVE", "POSITIVE"], answer.data[0].probs)))
asked = api.ModerationRequest(input=api.Input("one text"))
(result,) = api.CompatibleOpenaiApi(client).openai_post_v1_moderations(asked).results
print({"NEGATIVE": result.category_scores["harassment"]})
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a tool prints; fails with that if the tool fails."""
    path = f"{TOOLS}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PATH": path, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def document(service: Service, tmp_path: Path) -> Path:
    file = tmp_path / "openapi.json"
    file.write_bytes(service.http.get("/openapi.json").content)
    return file


def check_use(service: Service, folder: Path, program: str) -> None:
    """The generated client in `folder` gets the scores of /predict from three routes."""
    said = run(TOOLS / "python", "-c", program, service.url, cwd=folder, NO_PROXY="*")
    wanted = service.scores("one text")[0]
    first, second, third = (json.loads(line.replace("'", '"')) for line in said.splitlines())
    assert first == second == wanted
    assert third == {"NEGATIVE": wanted["NEGATIVE"]}


def test_it_is_valid(document: Path) -> None:
    run(TOOLS / "openapi-spec-validator", document, cwd=document.parent)


def test_openapi_python_client(service: Service, document: Path) -> None:
    folder = document.parent / "client"
    run(TOOLS / "openapi-python-client", "generate", "--path", document, "--output-path", folder, cwd=ROOT)
    assert (folder / "millrace_api_client").is_dir(), "not under the name of our own client"
    check_use(service, folder, WITH_OPENAPI_PYTHON_CLIENT)


@pytest.mark.parametrize("kind", ["python", "typescript-fetch"])
def test_openapi_generator(service: Service, document: Path, kind: str) -> None:
    folder = document.parent / "client"
    run(TOOLS / "openapi-generator-cli", "generate", "-g", kind, "-i", document, "-o", folder, cwd=ROOT)
    if kind == "python":
        check_use(service, folder, WITH_OPENAPI_GENERATOR)
    else:
        assert (folder / "apis/PredictApi.ts").is_file()


def test_redocly_has_no_findings(document: Path) -> None:
    if not REDOCLY.exists():
        pytest.skip("needs @redocly/cli: `make other-clients`")
    needs("node")
    said = run(REDOCLY, "lint", document, "--format=json", cwd=ROOT, REDOCLY_TELEMETRY="off")
    found: list[Any] = json.loads(said[said.index("{") :])["problems"]
    assert found == []
