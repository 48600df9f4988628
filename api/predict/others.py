"""Who else may answer a request to /predict."""

from __future__ import annotations

from typing import Protocol

from api.asgi.http import Answer, Receive, RequestHeaders
from api.predict.request import RequestContext


class Deferral(Protocol):
    """Turns a request into a job (`Prefer: respond-async`) and returns its location. May raise Problem."""

    async def __call__(self, headers: RequestHeaders, texts: list[str]) -> Answer: ...


class Foreign(Protocol):
    """Answers the body of another dialect, errors included. May raise ClientDisconnect."""

    async def __call__(
        self, context: RequestContext, body: bytes, receive: Receive, model: str = ...
    ) -> Answer: ...
