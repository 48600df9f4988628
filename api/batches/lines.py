"""Reads the lines of a batch, each a request to /v1/moderations or /v1/classify, and writes its results.

Each line has one text, so that the results of a job and the lines of its file correspond.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from api.asgi.json_reader import HALF_PAIR, is_unicode
from api.compat.reading import refuse_second
from api.errors import Problem, invalid_body
from api.jobs.parsers import read_lines


def first_model(blocks: Iterable[bytes]) -> str | None:
    """The model that the first line asks for. Raises Problem 422 for a model that is not a string."""
    return next((_model(line, number) for number, line in read_lines(blocks)), None)


def read_texts(
    blocks: Iterable[bytes], endpoint: str, is_same: Callable[[str | None], bool] = lambda model: True
) -> Iterator[str]:
    """Yields the text of every line. Raises Problem 422 for the first line that has none.

    Also for one that asks for another model than the batch, as `is_same` says.
    """
    for number, line in read_lines(blocks):
        text = _text(line, number, endpoint)
        if not is_same(_model(line, number)):
            why = "this line asks for another model than the first one: make a batch for each model"
            raise invalid_body("value_error", why, line=number)
        yield text


def custom_ids(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yields the custom id of every line of a file that `read_texts` has accepted."""
    for _, line in read_lines(blocks):
        yield line["custom_id"]


def _model(line: Any, number: int) -> str | None:
    body = line.get("body") if isinstance(line, dict) else None
    model = body.get("model") if isinstance(body, dict) else None
    if model is not None and not isinstance(model, str):
        raise invalid_body("string_type", '"model" of the body must be a string', line=number)
    return model


def _text(line: Any, number: int, endpoint: str) -> str:
    if not isinstance(line, dict):
        raise invalid_body("dict_type", "expected an object", line=number)
    if not isinstance(line.get("custom_id"), str):
        raise invalid_body("missing", 'the string "custom_id" is missing', line=number)
    if line.get("method") != "POST" or line.get("url") != endpoint:
        raise invalid_body("value_error", f"expected method POST and url {endpoint}", line=number)
    body = line.get("body")
    given = body.get("input") if isinstance(body, dict) else None
    if isinstance(body, dict):
        refuse_second(body.items(), number)
    if isinstance(given, list) and len(given) == 1:
        (given,) = given
    if not isinstance(given, str):
        why = '"input" of the body must be one string: give each text its own line'
        raise invalid_body("string_type", why, line=number)
    if not is_unicode(given) or not is_unicode(line["custom_id"]):
        raise invalid_body("string_unicode", HALF_PAIR, line=number)
    return given


def output_line(request_id: str, custom_id: str, status: int, body: dict[str, Any]) -> bytes:
    """A line of an output or error file."""
    line = {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": request_id, "body": body},
        "error": None,
    }
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


# The status of a text's error, as /predict has it; 500 for the others.
STATUS_OF = {"text_too_long": 413, "poison": 422}


def error_body(code: str, detail: str, status: int) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": detail, "type": kind, "param": None, "code": code}}


def with_error(problem: Problem) -> Problem:
    """Adds the error in OpenAI's format to the body of a problem."""
    detail = problem.detail if isinstance(problem.detail, str) else problem.detail[0]["msg"]
    problem.fields |= error_body(problem.code, detail, problem.status)
    return problem
