"""The errors of OpenAI's API, and of the dialects that imitate it."""

from __future__ import annotations

from pydantic import BaseModel

from api.compat.dialect import Dialect
from api.compat.reading import sentence
from api.errors import Problem


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(BaseModel):
    error: OpenAIErrorDetail


def openai_error(message: str, status: int, code: str, param: str | None = None) -> OpenAIError:
    """An error as OpenAI's clients expect it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return OpenAIError(error=OpenAIErrorDetail(message=message, type=kind, param=param, code=code))


class OpenAIDialect(Dialect):
    error = OpenAIError

    def error_body(self, problem: Problem, status: int) -> BaseModel:
        place = [] if isinstance(problem.detail, str) else problem.detail[0]["loc"]
        param = str(place[1]) if len(place) > 1 else None
        return openai_error(sentence(problem), status, problem.code, param)
