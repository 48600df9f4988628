"""What OpenAPI says beyond what the routes show: API keys, and the two answers that /predict may give."""

from __future__ import annotations

from typing import Any

from api.auth import OPEN_PATHS

SCHEMES: dict[str, dict[str, str]] = {
    "Bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where keys are set"},
    "ApiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same in a header of its own",
    },
}


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, completed in place: `/docs` can send a key to every route that may ask for one."""
    schema["components"]["securitySchemes"] = SCHEMES
    for path, methods in schema["paths"].items():
        if path not in OPEN_PATHS:
            for route in methods.values():
                route["security"] = [{name: []} for name in SCHEMES]
    answer = schema["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    answer["schema"] = {"oneOf": [answer["schema"], {"$ref": "#/components/schemas/Job"}]}
    return schema
