"""Adds the dialects to the OpenAPI document when it is asked for: the framework takes 5 ms per route."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from api.compat.dialect import Dialect, Endpoint, Route
from api.docs_page import security
from api.predict.handler import ROUTE
from api.schemas import FAILURES, FILE, REFERENCE

# What a route may answer besides 200, before the dialect's own statuses: without a body, less.
_FAILURES = {
    **{status: FAILURES[status] for status in (401, 403, 408, 413, 415, 503, 504)},
    404: "The model in the request is not the one that is served",
    409: "Models of several workers have this name (ambiguous_model), or those of a cascade do not fit "
    "(labels_differ, several_labels)",
    422: "Invalid request, or something that this service does not do",
    429: "Too much is waiting (queue_full), or a limit of this client is reached "
    "(client_limit, rate_limited); see Retry-After",
    500: "The model failed on one text, or an unexpected error",
}
_OF_BODIES, _OF_MODELS = (400, 404, 408, 409, 413, 415, 504), (404, 409)


def describe(schema: dict[str, Any], endpoints: Mapping[str, Sequence[Endpoint]], *, keys: bool) -> None:
    """Adds paths and components to the schema in place. A route of /predict becomes an alternative.

    `keys` says whether the service requires them.
    """
    served: dict[tuple[str, str, str], tuple[str, Endpoint]] = {}
    for name, routes in endpoints.items():
        for endpoint in routes:
            shared = name if endpoint.path == ROUTE else ""
            if endpoint.route.answer and (not shared or ROUTE in schema["paths"]):
                served.setdefault((endpoint.path, endpoint.route.method, shared), (name, endpoint))
    all_endpoints = list(served.values())
    models = {pair for _, endpoint in all_endpoints for pair in _models(endpoint)}
    _, document = models_json_schema(
        sorted(models, key=lambda pair: pair[0].__name__), ref_template=REFERENCE
    )
    schema["components"]["schemas"].update(document.get("$defs", {}))
    for name, endpoint in all_endpoints:
        operation = _operation(name, endpoint.route, endpoint.dialect, keys=keys)
        methods = schema["paths"].setdefault(endpoint.path, {})
        method = endpoint.route.method.lower()
        if method in methods:
            _add_alternative(methods[method], operation)
        else:
            methods[method] = operation


def _models(endpoint: Endpoint) -> Iterator[tuple[type[BaseModel], JsonSchemaMode]]:
    if endpoint.route.body is not None:
        yield endpoint.route.body, "validation"
    if endpoint.route.answer is not None:
        yield endpoint.route.answer, "serialization"
    yield endpoint.dialect.error, "serialization"


def _operation(name: str, route: Route, dialect: Dialect, *, keys: bool) -> dict[str, Any]:
    responses = {"200": _content(route.answer, "The answer in the form of the dialect")}
    if route.binary:
        responses["200"]["content"]["application/octet-stream"] = {"schema": FILE}
    for status, text in {**_FAILURES, **dialect.more_statuses}.items():
        if _may_answer(route, status):
            responses[str(dialect.statuses.get(status, status))] = _content(dialect.error, text)
    operation: dict[str, Any] = {
        "tags": [f"compatible: {name}"],
        "summary": route.summary,
        "operationId": re.sub(r"\W+", "_", f"{name}_{route.method}_{route.path}").strip("_").lower(),
        "responses": dict(sorted(responses.items())),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)", route.path)
        ],
    }
    operation["security"] = security(required=keys, is_open=route.open)
    if route.body is not None:
        operation["requestBody"] = {"required": True, **_content(route.body)}
    return operation


def _may_answer(route: Route, status: int) -> bool:
    if route.open:
        return status in (403, 500, 503)
    named = "{model}" in route.path and status in _OF_MODELS
    return route.body is not None or named or status not in _OF_BODIES


def _content(model: type[BaseModel] | None, description: str = "") -> dict[str, Any]:
    assert model is not None, "every route has an answer"
    reference = {"$ref": REFERENCE.format(model=model.__name__)}
    found: dict[str, Any] = {"content": {"application/json": {"schema": reference}}}
    return found | ({"description": description} if description else {})


def _add_alternative(operation: dict[str, Any], other: dict[str, Any]) -> None:
    """Adds the body and the responses of `other` to an operation that has its own."""
    _join(operation["requestBody"], other["requestBody"])
    for status, response in other["responses"].items():
        if status in operation["responses"]:
            _join(operation["responses"][status], response)
        else:
            operation["responses"][status] = response


def _join(content: dict[str, Any], other: dict[str, Any]) -> None:
    media, added = (part["content"]["application/json"] for part in (content, other))
    alternatives = media["schema"].get("oneOf", [media["schema"]])
    media["schema"] = {"oneOf": [*alternatives, added["schema"]]}
