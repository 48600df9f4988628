"""Splits texts into requests to /predict, and puts the results back in order. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from millrace_client.errors import RequestError, TextError
from millrace_client.exchange import Flow, Send, exchange
from millrace_client.options import Options, Window
from millrace_client.results import Model, Result, read_models, read_results

log = logging.getLogger("millrace_client")

JSON = {"content-type": "application/json"}
# What headers of an answer say of so many texts.
NOTED = {"x-truncated": "were too long and were truncated", "x-unknown": "are mostly unknown to the model"}
# The code of a service that accepts fewer texts than a request has.
NO_TEXTS = "too_many_texts"
# Most bytes of the texts of one request, as JSON; the service accepts 2 MiB by default.
BATCH_BYTES = 512 * 1024
# Most positions of a batch: repeated texts add to these only.
BATCH_POSITIONS = 4096
# Batches in progress for each request that may be sent: while the first is being retried, the next go on.
AHEAD = 2


@dataclass(slots=True)
class Batch:
    """Different texts, as JSON, and for each position of the input which of them is there.

    `first` is the position in the input of the first one.
    """

    first: int
    texts: list[bytes] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.first + len(self.order)

    def spread(self, results: Sequence[Result]) -> Iterator[Result]:
        """Yields the result of every position, given that of every text."""
        for position, text in enumerate(self.order, self.first):
            result = results[text]
            yield TextError.of(result, position) if isinstance(result, TextError) else result


class Batcher:
    """Collects texts into batches. Holds one batch at a time."""

    def __init__(self, most_texts: int) -> None:
        self._most_texts = most_texts
        self._batch = Batch(0)
        self._known: dict[bytes, int] = {}
        self._bytes = 0

    def add(self, text: str) -> Batch | None:
        """Adds a text. Returns the batch before it, if the text does not fit into that."""
        encoded = encode(text, self._batch.end)
        full = None
        if self._batch.order and not self._fits(encoded):
            full = self._batch
            self._batch, self._known, self._bytes = Batch(full.end), {}, 0
        number = self._known.setdefault(encoded, len(self._known))
        if number == len(self._batch.texts):
            self._batch.texts.append(encoded)
            self._bytes += len(encoded)
        self._batch.order.append(number)
        return full

    def rest(self) -> Batch | None:
        """The last batch, unless it is empty."""
        return self._batch if self._batch.order else None

    def _fits(self, encoded: bytes) -> bool:
        if len(self._batch.order) >= BATCH_POSITIONS:
            return False
        new = encoded not in self._known
        return not new or (len(self._known) < self._most_texts and self._bytes + len(encoded) <= BATCH_BYTES)


def checked(text: object, position: int) -> str:
    """The text at this position of the input. Raises TypeError if it is not a string."""
    if isinstance(text, str):
        return text
    missing = '; fill missing values, with fillna("") for example'
    advice = missing if text is None or text != text else ""
    raise TypeError(f"text {position} must be a string, not {type(text).__name__}{advice}")


def encode(text: object, position: int) -> bytes:
    """The text at this position of the input as JSON. Raises TypeError if it is not a string."""
    text = checked(text, position)
    try:
        return json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair: escaped, the service can say which text has it
        return json.dumps(text).encode()


def path_of(model: str) -> str:
    """The route of a model, or of the first one."""
    return f"/models/{quote(model)}/predict" if model else "/predict"


def models(options: Options) -> Flow[list[Model]]:
    """The models of the service. Raises RequestError and Unavailable."""
    response = yield from exchange(options, Send("GET", "/models"), options.now() + options.budget_s)
    return read_models(response)


def predict(options: Options, texts: Sequence[bytes], window: Window, model: str = "") -> Flow[list[Result]]:
    """The result of each text by this model. A text that fails does not affect the others.

    Raises RequestError and Unavailable.
    """
    until = options.now() + options.budget_s
    results: dict[int, Result] = {}
    waiting = [list(range(len(texts)))]
    while waiting:
        part = waiting.pop()
        body = b'{"text":[%b]}' % b",".join(texts[number] for number in part)
        send = Send("POST", path_of(model), body, headers=JSON, prefer=True)
        try:
            response = yield from exchange(options, send, until, window)
            found = read_results(response, count=len(part))
        except RequestError as error:
            waiting += _without(error, part, results)
            continue
        for name, what in NOTED.items():
            if count := response.headers.get(name):
                request_id = response.headers.get("x-request-id", "")
                log.warning("%s texts of request %s %s", count, request_id, what)
        results.update(zip(part, found, strict=True))
    return [results[number] for number in range(len(texts))]


def _without(error: RequestError, part: list[int], results: dict[int, Result]) -> list[list[int]]:
    """The requests to send instead of a refused one: without the text at fault, or in halves.

    Raises the error if neither helps.
    """
    alone = error.status == 413 and error.code != NO_TEXTS and len(part) == 1  # no body has room for it
    at = 0 if alone else error.index
    if at is not None and 0 <= at < len(part):
        failed = part[at]
        results[failed] = TextError.of(error, failed)
        rest = part[:at] + part[at + 1 :]
        return [rest] if rest else []
    if error.status == 413 and len(part) > 1:  # the service accepts fewer texts, or bytes, than usual
        middle = len(part) // 2
        return [part[:middle], part[middle:]]
    raise error
