"""Reads the lines of a batch, each a request to /v1/moderations or /v1/classify, and writes its results.

Each line has one text, so that the results of a job and the lines of its file correspond.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Any

from api.asgi.ignored import MAX_NAME
from api.asgi.json_reader import HALF_PAIR, is_unicode
from api.compat.reading import sentence
from api.errors import Problem, invalid_body
from api.jobs.body import json_lines
from api.jobs.pages import json_line
from text_files.json_rows import written

FIELDS = ("custom_id", "method", "url", "body")


def first_model(blocks: Iterable[bytes]) -> str | None:
    """The model that the first line asks for. Raises Problem 422 for a model that is not a string."""
    return next((_model(line, number) for number, line, _ in json_lines(blocks)), None)


@dataclass(eq=False)
class BatchLines:
    """The lines of a batch: their texts, and their custom ids, of which none is empty or given twice.

    `open_file` begins to read the file, `texts_of` reads the body of a request to `endpoint` as the route
    does, and `is_same` says whether a line that asks for this model asks for that of the batch.
    """

    open_file: Callable[[], Iterable[bytes]]
    endpoint: str
    texts_of: Callable[[bytes], Sequence[str]]
    is_same: Callable[[str | None], bool]

    def __post_init__(self) -> None:
        self._hashes = array("q")  # there may be a million ids
        self._digest = sha256()

    def texts(self) -> Iterator[str]:
        """Yields the text of every line. Raises Problem 422 for the first line that is not valid.

        A line is valid if the route accepts its body, with one text, and the batch its custom id and model.
        """
        for number, line, source in json_lines(self.open_file()):
            self._add(_custom_id(line, number))
            text = self._text(line, source, number)
            if not self.is_same(_model(line, number)):
                why = "this line asks for another model than the first one: make a batch for each model"
                raise invalid_body("value_error", why, line=number)
            yield text
        self._check_ids()

    @property
    def digest(self) -> str:
        """Identifies the custom ids of the lines that have been read."""
        return self._digest.hexdigest()

    def _add(self, custom_id: str) -> None:
        encoded = custom_id.encode()
        self._digest.update(b"%d:%b" % (len(encoded), encoded))
        self._hashes.append(hash(custom_id))

    def _check_ids(self) -> None:
        """Raises Problem 422 if two lines have the same custom id."""
        twice = {one for one, following in pairwise(sorted(self._hashes)) if one == following}
        if not twice:
            return
        seen: dict[str, int] = {}
        for number, line, _ in json_lines(self.open_file()):
            custom_id = line["custom_id"]
            if hash(custom_id) in twice and (first := seen.setdefault(custom_id, number)) != number:
                why = f"line {first} has the same custom_id {json.dumps(custom_id[:64])}: give each its own"
                raise invalid_body("value_error", why, line=number)

    def _text(self, line: Any, source: str, number: int) -> str:
        if unknown := [name for name in line if name not in FIELDS]:
            why = f'unknown field "{unknown[0][:MAX_NAME]}"; known are {", ".join(FIELDS)}'
            raise invalid_body("unknown_field", why, line=number)
        if line.get("method") != "POST" or line.get("url") != self.endpoint:
            raise invalid_body("value_error", f"expected method POST and url {self.endpoint}", line=number)
        body = line.get("body")
        if not isinstance(body, dict):
            raise invalid_body("dict_type", 'the field "body" must be an object', line=number)
        try:
            texts = self.texts_of(written(source)["body"].encode())
        except Problem as problem:
            kind = "value_error" if isinstance(problem.detail, str) else problem.detail[0]["type"]
            raise invalid_body(kind, sentence(problem), line=number) from None
        if len(texts) > 1:
            why = '"input" of the body must be one string: give each text its own line'
            raise invalid_body("string_type", why, line=number)
        return texts[0]


def custom_ids(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yields the custom id of every line of a file that `BatchLines` has accepted."""
    return (line["custom_id"] for _, line, _ in json_lines(blocks))


def _custom_id(line: Any, number: int) -> str:
    if not isinstance(line, dict):
        raise invalid_body("dict_type", "expected an object", line=number)
    found = line.get("custom_id")
    if not isinstance(found, str) or not found:
        why = 'the string "custom_id" is empty' if found == "" else 'the string "custom_id" is missing'
        raise invalid_body("missing", why, line=number)
    if not is_unicode(found):
        raise invalid_body("string_unicode", HALF_PAIR, line=number)
    return found


def _model(line: Any, number: int) -> str | None:
    body = line.get("body") if isinstance(line, dict) else None
    model = body.get("model") if isinstance(body, dict) else None
    if model is not None and not isinstance(model, str):
        raise invalid_body("string_type", '"model" of the body must be a string', line=number)
    return model


def output_line(request_id: str, custom_id: str, status: int, body: dict[str, Any]) -> bytes:
    """A line of an output or error file."""
    line = {
        "id": f"batch_req_{request_id}",
        "custom_id": custom_id,
        "response": {"status_code": status, "request_id": request_id, "body": body},
        "error": None,
    }
    return json_line(line) + b"\n"


# The status of a text's error, as /predict has it; 500 for the others.
STATUS_OF = {"text_too_long": 413, "text_unknown": 422, "poison": 422}
