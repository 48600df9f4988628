"""The errors of OpenAI's API, and of the services that imitate it."""

from __future__ import annotations

from pydantic import BaseModel

from api.compat.reading import sentence
from api.errors import Problem


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    error: OpenAIErrorDetail


def openai_error(problem: Problem, status: int) -> OpenAIError:
    """The problem as such an error."""
    place = [] if isinstance(problem.detail, str) else problem.detail[0]["loc"]
    kind = "invalid_request_error" if status < 500 else "server_error"
    param = str(place[1]) if len(place) > 1 else None
    return OpenAIError(
        error=OpenAIErrorDetail(message=sentence(problem), type=kind, param=param, code=problem.code)
    )
