"""Other paths of /predict and /health, which other services with the same contract use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from api.models.served import ServedModels

NAME = "project"
PREDICT_PATHS = ("/bulk-predict", "/project/bulk-predict", "/project-predict")
HEALTH_PATHS = ("/project/health",)


class Current:
    """Passes requests to the handler of what answers for the first model."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._models.current.handler(scope, receive, send)


def aliases(predict: ASGIApp, health: ASGIApp) -> Mapping[tuple[str, str], ASGIApp]:
    """The application that answers each method and path."""
    found = {("POST", path): predict for path in PREDICT_PATHS}
    return found | {("GET", path): health for path in HEALTH_PATHS}


def describe_aliases(schema: dict[str, Any]) -> None:
    """Adds the paths to an OpenAPI document: the same operations with ids of their own."""
    paths = schema["paths"]
    for original, method, copies in (("/predict", "post", PREDICT_PATHS), ("/health", "get", HEALTH_PATHS)):
        for path in copies if original in paths else ():
            name = f"{NAME}_{path.strip('/')}".replace("/", "_").replace("-", "_")
            operation = {**paths[original][method], "tags": [f"compatible: {NAME}"], "operationId": name}
            paths[path] = {method: operation}
