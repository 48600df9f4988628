"""Clients of a service for the commands, which do not use `millrace_client`: decision 0901 says why."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from millrace.addresses import api_address, http_client, no_answer, read_key, refusal, with_scheme
from millrace.errors import CommandError
from millrace.local.operator_key import NAME, find_key

if TYPE_CHECKING:
    import httpx

Frame = dict[str, Any]


def add_client_arguments(parser: argparse.ArgumentParser, *clients: type[ServiceClient]) -> None:
    """The address of the API, and for each client the option that names the file of its key."""
    parser.add_argument("--url", help="address of the API (default: by MILLRACE_HOST and MILLRACE_PORT)")
    for client in clients:
        parser.add_argument(client.key_option, type=Path, help=client.key_help)


class ServiceClient:
    """A client of one API. Reports failures as CommandError."""

    timeout_s: ClassVar[float]
    key_option = "--api-key-file"
    key_help = "file that holds the API key"

    def __init__(self, url: str, key: str = "", transport: httpx.BaseTransport | None = None) -> None:
        self.url = with_scheme(url)
        self._http = http_client(url, key, timeout_s=self.timeout_s, transport=transport)

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Connects to the API given by the arguments or, by default, by the settings."""
        url = args.url or api_address()
        return cls(url, read_key(getattr(args, cls.key_option[2:].replace("-", "_"))) or find_key(url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Raises CommandError of status 1 if the API does not answer."""
        import httpx

        try:
            yield
        except httpx.HTTPError as error:
            raise CommandError(f"{no_answer(self.url, error)}.", status=1) from None


class StatsClient(ServiceClient):
    """Reads /stats, for `millrace top` and `millrace status`. Every failure has status 1."""

    timeout_s = 5.0

    def one(self) -> Frame:
        """The current frame."""
        with self._reporting():
            answer = self._http.get("/stats")
        self._check(answer)
        return _frame(answer.text)

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yields ("history", ...), then ("frame", ...) every second until the stream ends."""
        accept = {"Accept": "text/event-stream"}
        with self._reporting(), self._http.stream("GET", "/stats", headers=accept) as answer:
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

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == 401:
            raise CommandError(f"{self.url} requires an API key: use --api-key-file.", status=1)
        if answer.status_code != 200:
            detail = refusal(answer)[0]
            said = f"{detail}." if detail else "is this a Millrace API?"
            raise CommandError(f"{self.url}/stats answered {answer.status_code}: {said}", status=1)


def _frame(text: str) -> Frame:
    try:
        frame = json.loads(text)
    except ValueError:
        raise CommandError("the answer is not JSON: is this a Millrace API?", status=1) from None
    if not isinstance(frame, dict):
        raise CommandError("the answer is not a JSON object: is this a Millrace API?", status=1)
    return frame


class AdminClient(ServiceClient):
    """Sends requests to the routes under /admin, for the commands of operators."""

    timeout_s = 300.0  # walking over a large Redis takes a while
    key_option = "--admin-key-file"
    key_help = (
        "file that holds an operator's key (default: the one that your `millrace up` at this address wrote)"
    )

    def get(self, path: str, **query: object) -> dict[str, Any]:
        return self.request("GET", path, params={name: value for name, value in query.items() if value != ""})

    def post(self, path: str, body: object) -> dict[str, Any]:
        return self.request("POST", path, json=body)

    def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The JSON of an answer. Raises CommandError."""
        with self._reporting():
            answer = self._http.request(method, path, **more)
        try:
            body: dict[str, Any] = answer.json()
        except ValueError:
            raise CommandError(f"{self.url}{path} did not answer JSON: is this a Millrace API?") from None
        if answer.status_code == 401:
            raise CommandError(
                f"{self.url} requires the key of an operator: use --admin-key-file. "
                f"`millrace up` writes one to {NAME} in its data directory."
            )
        if answer.status_code >= 400:
            detail, _ = refusal(answer)
            other = f"{self.url}{path} answered {answer.status_code}: is this a Millrace API?"
            raise CommandError(f"{detail}." if detail else other)
        return body
