"""Reads the bodies of the dialects, and says what is wrong with them in the words of /predict."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError, WithJsonSchema

from api.asgi.http import RequestHeaders
from api.asgi.ignored import MAX_NAME
from api.asgi.json_reader import EMPTY, HALF_PAIR, NOT_UTF8, is_unicode
from api.compat.fields import UNKNOWN, UNSUPPORTED
from api.errors import Problem, invalid_body
from api.predict.request import LARGE_BODY

# A body above LARGE_BODY may hold this many values: lists and objects take up to 40 times the memory of their
# JSON.
MAX_VALUES = 16 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The names that dialects, and clients of others, have for the texts of a request, in any case. Two of them in
# one body contradict each other.
NAMES = ("text", "texts", "inputs", "input", "instances", "contents", "state", "sentences", "documents")
# Further ones for a text within them.
_WITHIN = ("data", "content")
# As they stand in a body, and letters that may be a part of one of them.
_KEYS = tuple(f'"{name}"'.encode() for name in NAMES + _WITHIN)
_ESCAPED = (b"\\u004", b"\\u005", b"\\u006", b"\\u007")
# Up to the next character that begins a value, outside of strings; or to the end.
_next_value = re.compile(rb'(?:[^"\[{,]++|"(?:[^"\\]++|\\.)*+"?)*+(?:([\[{,])|\Z)', re.DOTALL)
# What JSON calls the values that Python reads.
_KINDS = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}

M = TypeVar("M", bound=BaseModel)
# Texts in any of the forms that a dialect has; `texts_of` reads them.
TextOrTexts = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    ),
]
TextList = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"type": "string"}, "minItems": 1})]


def parse(body: bytes, model: type[M]) -> M:
    """The body as `model`. Raises Problem 422 for the first error, and 413 if it holds too many values.

    Texts that are given by two names, and fields that are given twice, are an error in every dialect.
    """
    if len(body) > LARGE_BODY and _has_too_many_values(body):
        raise Problem(413, f"the request has more than {MAX_VALUES} values")
    if body.startswith(BYTE_ORDER_MARK):
        body = body[len(BYTE_ORDER_MARK) :]
    problem = None
    try:
        found: M = model.__pydantic_validator__.validate_json(body)
        several = len(found.model_fields_set) > 1 or sum(map(body.lower().count, _KEYS)) > 1
        if several or any(letter in body for letter in _ESCAPED):
            refuse_second(json.loads(body, object_pairs_hook=_Pairs))
        return found
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        named = [one for one in errors if one["type"] in (UNSUPPORTED, UNKNOWN)]
        problem = _problem(body, (named or errors)[0])
    raise problem  # not in the except clause: its context would keep the body in memory


def _has_too_many_values(body: bytes) -> bool:
    surplus = next(islice(_next_value.finditer(body), MAX_VALUES, None), None)
    return surplus is not None and surplus[1] is not None


class _Pairs(list[tuple[str, Any]]):
    """The fields of an object. Raises Problem 422 if two have the same name."""

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        super().__init__(fields)
        seen: set[str] = set()
        for name, _ in fields:
            if name in seen:
                raise invalid_body("duplicate_key", f'the field "{name[:MAX_NAME]}" is given twice', name)
            seen.add(name)


def refuse_second(fields: Iterable[tuple[str, Any]], line: int | None = None) -> None:
    """Raises Problem 422 if the fields of a request have its texts by two names."""
    names = [name for name, value in fields if name.lower() in NAMES and type(value) in (str, list, _Pairs)]
    if len(names) > 1:
        first, second = names[:2]
        both = f'the fields "{first}" and "{second}" are both given: send one of them'
        raise invalid_body("duplicate_key", both, second, line=line)


def _problem(body: bytes, error: Any) -> Problem:
    kind = error["type"]
    message = error["msg"]
    if kind == "json_invalid":
        if not body.strip():
            return invalid_body("missing", EMPTY)
        if not is_unicode(body.decode("utf-8", "surrogateescape")):
            return invalid_body("string_unicode", NOT_UTF8)
        if "hex escape" in message or "surrogate" in message:
            return invalid_body("string_unicode", HALF_PAIR)
        return invalid_body(kind, f"not valid JSON: {message.partition(': ')[2] or message}")
    place = ".".join(map(str, error["loc"]))
    if kind == "missing":
        return invalid_body(kind, f'the field "{place}" is missing', place)
    if kind == UNKNOWN and not place:
        return invalid_body(kind, message)
    return invalid_body(kind, f"{place}: {message}" if place else "must be an object", place)


def texts_of(value: Any, name: str) -> list[str]:
    """The texts of the field `name`: a string, or a list of at least one. Raises Problem 422."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise invalid_body("list_type", f"{name}: must be a string or a list of strings", name)
    return text_list(value, name)


def text_list(value: Sequence[Any], name: str) -> list[str]:
    """Checks that a list holds strings only, and at least one. Raises Problem 422."""
    if not value:
        raise invalid_body("too_short", "must hold at least one text", name)
    for index, text in enumerate(value):
        if not isinstance(text, str):
            raise invalid_text("string_type", _why_not(text), name, index)
    return list(value)


def _why_not(value: Any) -> str:
    """Names what a value probably is that is not a text."""
    first = value[0] if isinstance(value, list) and value else value
    if type(first) is int:
        return "must be a string; token ids are not accepted"
    if isinstance(value, dict) and {"text_pair", "text_b"} & value.keys():
        return "must be a string; pairs of texts are not supported"
    return f"must be a string, not {_KINDS.get(type(value), 'a number')}"


def invalid_text(kind: str, message: str, name: str, index: int) -> Problem:
    """A 422 for one text of the field `name`."""
    error = {"type": kind, "loc": ["body", name, index], "msg": f"text {index}: {message}"}
    return Problem(422, [error], index=index)


def refuse_others(fields: Mapping[str, Any], known: Collection[str], name: str) -> None:
    """Raises Problem 422 if an object within the field `name` has an unknown field."""
    for other in fields:
        if other not in known:
            why = f'{name}: unknown field "{other[:MAX_NAME]}"; known are {", ".join(known)}'
            raise invalid_body(UNKNOWN, why, name)


def text_of_part(part: Any, kind: str, name: str) -> str:
    """The text of a part of a message, {"type": `kind`, "text": "..."}. Raises Problem 422."""
    if not isinstance(part, dict) or part.get("type") != kind:
        raise refused(f"{name}: images are not supported, only parts of type {kind}", name)
    refuse_others(part, ("type", "text"), name)
    if not isinstance(part.get("text"), str):
        raise refused(f"{name}: the text of a part must be a string", name)
    return str(part["text"])


def only_value(headers: RequestHeaders, name: bytes) -> bytes:
    """The value of a header, b"" without it. Raises Problem 422 if it has two."""
    found = {value for one, value in headers.scope["headers"] if one == name}
    if len(found) > 1:
        raise invalid_body("duplicate_key", f"the header {name.decode()} is given twice")
    return found.pop() if found else b""


def refused(message: str, *place: str) -> Problem:
    """A 422 for something that this service does not do."""
    return invalid_body("unsupported", message, *place)


def sentence(problem: Problem) -> str:
    """What is wrong in one line, for dialects whose errors are a text."""
    if isinstance(problem.detail, str):
        return problem.detail
    return "; ".join(str(part["msg"]) for part in problem.detail)
