"""A client of the API's /stats, for `millrace top` and `millrace status`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.addresses import api_address, http_client, no_answer, read_key, refusal, with_scheme
from millrace.local.operator_key import find_key

if TYPE_CHECKING:
    import httpx

Frame = dict[str, Any]
TIMEOUT_S = 5.0


class NoAnswer(Exception):
    """The API did not answer, or is not a Millrace API. The message is shown to the user."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="address of the API (default: by MILLRACE_HOST and MILLRACE_PORT)")
    parser.add_argument("--api-key-file", type=Path, help="file that holds the API key")


class StatsClient:
    """Reads the statistics of one API. Its methods raise NoAnswer."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = with_scheme(url)
        self._http = http_client(url, key, timeout=TIMEOUT_S)

    @classmethod
    def of(cls, args: argparse.Namespace) -> StatsClient:
        """Connects to the API given by the arguments or, by default, by the settings."""
        url = args.url or api_address()
        return cls(url, read_key(args.api_key_file) or find_key(url))

    def one(self) -> Frame:
        """The current frame."""
        import httpx

        try:
            answer = self._http.get("/stats")
            self._check(answer)
            return _frame(answer.text)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yields ("history", ...), then ("frame", ...) every second until the stream ends."""
        import httpx

        try:
            with self._http.stream("GET", "/stats", headers={"Accept": "text/event-stream"}) as answer:
                if answer.status_code != 200:
                    answer.read()
                self._check(answer)
                name = ""
                for line in answer.iter_lines():
                    field, _, value = line.partition(": ")
                    if field == "event":
                        name = value
                    elif field == "data":
                        yield name, _frame(value)
        except httpx.HTTPError as error:
            raise self._no_answer(error) from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == 401:
            raise NoAnswer(f"{self.url} requires an API key: use --api-key-file")
        if answer.status_code != 200:
            said = refusal(answer)[0] or "is this a Millrace API?"
            raise NoAnswer(f"{self.url}/stats answered {answer.status_code}: {said}")

    def _no_answer(self, error: Exception) -> NoAnswer:
        return NoAnswer(no_answer(self.url, error))


def _frame(text: str) -> Frame:
    try:
        frame = json.loads(text)
    except ValueError as error:
        raise NoAnswer("the answer is not JSON: is this a Millrace API?") from error
    if not isinstance(frame, dict):
        raise NoAnswer("the answer is not a JSON object: is this a Millrace API?")
    return frame


def number(value: float | None, unit: str = "") -> str:
    """Formats a number with about three significant digits."""
    if value is None:
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{text} {unit}".rstrip()
