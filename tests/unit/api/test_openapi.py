"""GET /openapi.json: what client generators rely on."""

from __future__ import annotations

import importlib.metadata
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from api.auth import OPEN_PATHS
from api.dialect_names import DIALECTS
from tests.unit.api.service import Service, Start


@pytest.fixture
async def schema(start: Start) -> dict[str, Any]:
    """Without the dialects of other services, which have their own errors; batches come with one of them."""
    service = await start(compat="openai")
    found: dict[str, Any] = (await service.client.get("/openapi.json")).json()
    for path in ("/v1/moderations", "/v1/models", "/v1/models/{model}"):
        del found["paths"][path]
    return found


@pytest.fixture
async def full_schema(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = (await service.client.get("/openapi.json")).json()
    return found


def routes(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(path, route) for path, methods in schema["paths"].items() for route in methods.values()]


def test_every_route_but_the_open_ones_takes_a_key(schema: dict[str, Any]) -> None:
    assert set(schema["components"]["securitySchemes"]) == {"Bearer", "ApiKey"}
    for path, route in routes(schema):
        if path in OPEN_PATHS:
            assert route["security"] == [], path
        else:
            assert route["security"] == [{"Bearer": []}, {"ApiKey": []}, {}], path
            assert {"401", "429"} <= set(route["responses"]), path
            assert "rate_limited" in route["responses"]["429"]["description"], path


def test_every_error_has_the_one_shape(schema: dict[str, Any]) -> None:
    for path, route in routes(schema):
        for status, response in route["responses"].items():
            if status >= "400":
                reference = response["content"]["application/json"]["schema"]["$ref"]
                wanted = "ValidationFailed" if status == "422" else "Error"
                assert reference == f"#/components/schemas/{wanted}", (path, status)
    error = schema["components"]["schemas"]["Error"]
    assert set(error["required"]) == {"detail", "code", "request_id"}
    assert {name: facts["type"] for name, facts in error["properties"].items()} == {
        "detail": "string",
        "code": "string",
        "request_id": "string",
        "index": "integer",
        "line": "integer",
        "columns": "array",
        "job": "string",
    }
    assert "HTTPValidationError" not in json.dumps(schema)


def test_predict_may_become_a_job(schema: dict[str, Any]) -> None:
    route = schema["paths"]["/predict"]["post"]
    assert "Idempotency-Key" in {parameter["name"] for parameter in route["parameters"]}
    job = {"$ref": "#/components/schemas/Job"}
    accepted = route["responses"]["202"]
    assert accepted["content"]["application/json"]["schema"] == job
    assert "Location" in accepted["headers"]
    done = route["responses"]["200"]["content"]["application/json"]["schema"]["oneOf"]
    assert done == [{"$ref": "#/components/schemas/Predictions"}, job]
    assert "idempotency_conflict" in route["responses"]["409"]["description"]


def test_dialects_are_documented_with_their_own_errors(
    schema: dict[str, Any], full_schema: dict[str, Any]
) -> None:
    added = [(path, route) for path, route in routes(full_schema) if "compatible" in route["tags"][0]]
    assert {path for path, _ in routes(full_schema)} - {path for path, _ in routes(schema)} == {
        path for path, _ in added
    }
    for path, route in added:
        error = route["responses"]["503"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert "detail" not in full_schema["components"]["schemas"][error]["properties"], path
        assert ("429" in route["responses"]) == bool(route["security"]), path
        # The names of models may be ambiguous, and only bodies can be too large, too slow or of another type.
        asked = "requestBody" in route
        assert ("409" in route["responses"]) == (asked or "{model}" in path) or not route["security"], path
        assert ({"408", "413", "415"} <= {*route["responses"]}) == asked, path
    assert {"/", "/classify", "/v2/models/{model}/infer", "/models/{model}"} <= {path for path, _ in added}
    predict = full_schema["paths"]["/predict"]["post"]
    for content in (predict["requestBody"], predict["responses"]["200"], predict["responses"]["429"]):
        alternatives = content["content"]["application/json"]["schema"]["oneOf"]
        assert any("Tei" in part.get("$ref", "") for part in alternatives)
    assert len({route["operationId"] for _, route in added}) == len(added)


def parts_of(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object within the document, and where."""
    if isinstance(schema, dict):
        yield place, schema
    listed = enumerate(schema) if isinstance(schema, list) else ()
    for name, part in schema.items() if isinstance(schema, dict) else listed:
        yield from parts_of(part, f"{place}/{name}")


@pytest.mark.parametrize("dialects", [",".join(DIALECTS), "openai", ""])
async def test_the_document_crashed_the_tools_that_read_it(start: Start, dialects: str) -> None:
    """`make other-clients` runs these tools; here is what they stumbled over."""
    service = await start(compat=dialects)
    document = (await service.client.get("/openapi.json")).json()
    for place, part in parts_of(document):
        assert part.get("type") != "null" or "/anyOf/" in place, f"{place}: only null"
        values = (
            [str(value).casefold() for value in part["enum"]] if isinstance(part.get("enum"), list) else []
        )
        assert len(values) == len(set(values)), f"{place}: values that differ in case only become one name"
        if "default" in part and ("type" in part or "anyOf" in part):
            jsonschema.validate(part["default"], {**part, "components": document["components"]})
        if isinstance(part.get("$ref"), str):
            name = part["$ref"].rpartition("/")[2]
            assert name in document["components"]["schemas"], place
    used = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in used, f"{name} is never used"
    operations = [route for methods in document["paths"].values() for route in methods.values()]
    ids = [route["operationId"] for route in operations]
    assert len(ids) == len(set(ids))
    for route in operations:
        assert "security" in route
        assert any(status.startswith("4") for status in route["responses"]), route["operationId"]
        assert "title" not in route.get("requestBody", {}).get("content", {}).get("application/json", {})
    assert document["servers"]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert document["info"]["title"] != "Millrace", "generated clients would have the name of our own"


async def test_the_version_was_unknown_everywhere(start: Start) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    service = await start()
    document, info, server = [
        (await service.client.get(path)).json() for path in ("/openapi.json", "/info", "/v2")
    ]
    installed = importlib.metadata.version(project["name"])
    assert {document["info"]["version"], info["version"], server["version"]} == {installed}
    assert f'version="{installed}"' in (await service.client.get("/metrics")).text


async def test_a_key_was_demanded_by_the_document_of_a_service_without_keys(start: Start) -> None:
    keyed = await start(api_keys=f"web:{'a' * 64}")
    for service, optional in ((await start(), True), (keyed, False)):
        document = (await service.client.get("/openapi.json")).json()
        for path in ("/predict", "/classify", "/jobs"):
            assert ({} in document["paths"][path]["post"]["security"]) is optional


def test_a_file_with_labels_is_text_or_bytes_by_its_format(schema: dict[str, Any]) -> None:
    found = schema["paths"]["/jobs/{job_id}/labelled"]["post"]["responses"]["200"]["content"]
    kinds = {name: kind["schema"] for name, kind in found.items()}
    text, data = {"type": "string"}, {"type": "string", "format": "binary"}
    assert kinds == {
        "text/csv": text,
        "text/tab-separated-values": text,
        "application/x-ndjson": text,
        "application/vnd.apache.parquet": data,
        "application/vnd.apache.arrow.file": data,
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": data,
    }
