"""Adds to the OpenAPI schema what FastAPI cannot derive: keys, errors, and both responses of /predict."""

from __future__ import annotations

from typing import Any

from api.auth import OPEN_PATHS
from api.schemas import error_schemas

SCHEMES: dict[str, dict[str, str]] = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the service requires one"},
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in a separate header",
    },
}


def security(*, required: bool, is_open: bool = False) -> list[dict[str, list[str]]]:
    """The security of a route: a key in either header, which is optional unless it is `required`."""
    if is_open:
        return []
    schemes: list[dict[str, list[str]]] = [{name: []} for name in SCHEMES]
    return schemes if required else [*schemes, {}]


def described(schema: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    """Completes the schema in place, so that `/docs` can send a key to every route that may require one.

    `keys` says whether the service requires them.
    """
    components = schema["components"]
    components["securitySchemes"] = SCHEMES
    components["schemas"] = dict(sorted({**components["schemas"], **error_schemas()}.items()))
    for path, methods in schema["paths"].items():
        for route in methods.values():
            _name_body(route, components["schemas"])
            route["security"] = security(required=keys, is_open=path in OPEN_PATHS)
    if "/predict" in schema["paths"] and "Job" in components["schemas"]:
        answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
        answer["schema"] = {"oneOf": [answer["schema"], {"$ref": "#/components/schemas/Job"}]}
    return schema


def _name_body(route: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Moves the schema of a body that has a title to the components: generators name classes after it."""
    content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = content.get("schema", {})
    schemas.update(body.pop("$defs", {}))
    if name := body.get("title"):
        schemas[name] = body
        content["schema"] = {"$ref": f"#/components/schemas/{name}"}
