"""Clients of a service for the commands, which do not use `millrace_client`: decision 0901 says why."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

import httpx

from api.origins import is_loopback
from api.settings import ApiSettings
from millrace.errors import CommandError, saying
from millrace.local.operator_key import NAME, find_key
from millrace.settings_loader import ADDRESS, base_url, load_settings

# How long to wait for a connection.
CONNECT_S = 5.0
Frame = dict[str, Any]


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="", metavar="NAME", help="model of this name (default: the first)")


def add_client_arguments(parser: argparse.ArgumentParser, *clients: type[ServiceClient]) -> None:
    """The address of the API, and for each client the option that names the file of its key."""
    by = "by MILLRACE_URL, or MILLRACE_HOST and MILLRACE_PORT"
    parser.add_argument("--url", help=f"address of the service (default: {by})")
    for client in clients:
        parser.add_argument(client.key_option, type=Path, help=client.key_help)


class NoAnswer(CommandError):
    """The API does not answer."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, status=1)


class ServiceClient:
    """A client of one API. Reports failures as NoAnswer, refusals as CommandError with `refused_status`."""

    timeout_s: ClassVar[float]
    key_option = "--api-key-file"
    key_help = "file that holds the API key"
    key_missing = "requires an API key: use --api-key-file"
    refused_status = 1

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

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """The answer to a request, unless it is an error. Raises CommandError."""
        with self._reporting():
            answer = self._http.request(method, path, **more)
        self._check(path, answer)
        return answer

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Raises NoAnswer if the API does not answer."""
        try:
            yield
        except httpx.HTTPError as error:
            raise NoAnswer(f"{no_answer(self.url, error)}.") from None

    def _check(self, path: str, answer: httpx.Response) -> None:
        if answer.is_success:
            return
        if answer.status_code == 401:
            raise CommandError(f"{self.url} {self.key_missing}.", status=self.refused_status)
        detail = refusal(answer)[0]
        other = f"{self.url}{path} answered {answer.status_code}: is this a Millrace API?"
        raise CommandError(f"{detail}." if detail else other, status=self.refused_status)

    def _object(self, path: str, text: str) -> dict[str, Any]:
        """The JSON object in an answer."""
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            said = f"{self.url}{path} did not answer with a JSON object: is this a Millrace API?"
            raise CommandError(said, status=self.refused_status)
        return found


class StatsClient(ServiceClient):
    """Reads /stats, for `millrace top` and `millrace status`."""

    timeout_s = 5.0

    def one(self) -> Frame:
        """The current frame."""
        return self._object("/stats", self.request("GET", "/stats").text)

    def frames(self) -> Iterator[tuple[str, Frame]]:
        """Yields ("history", ...), then ("frame", ...) every second until the stream ends."""
        accept = {"Accept": "text/event-stream"}
        with self._reporting(), self._http.stream("GET", "/stats", headers=accept) as answer:
            if not answer.is_success:
                answer.read()
            self._check("/stats", answer)
            name = ""
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, self._object("/stats", value)


class AdminClient(ServiceClient):
    """Sends requests to the routes under /admin, for the commands of operators."""

    timeout_s = 300.0  # walking over a large Redis takes a while
    key_option = "--admin-key-file"
    key_help = (
        "file that holds an operator's key (default: the one that your `millrace up` at this address wrote)"
    )
    key_missing = (
        "requires the key of an operator: use --admin-key-file. "
        f"`millrace up` writes one to {NAME} in its data directory"
    )
    refused_status = 2

    def get(self, path: str, **query: object) -> dict[str, Any]:
        params = {name: value for name, value in query.items() if value != ""}
        return self._object(path, self.request("GET", path, params=params).text)

    def post(self, path: str, body: object) -> dict[str, Any]:
        return self._object(path, self.request("POST", path, json=body).text)


def api_address() -> str:
    """The address of the API by the environment. Raises CommandError if its settings are invalid."""
    if url := os.environ.get(ADDRESS):
        return url
    settings = load_settings(ApiSettings)
    return base_url(settings.host, settings.port)


def with_scheme(url: str) -> str:
    """`url` without a slash at its end; `host:port` means http."""
    return url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"


def read_key(file: Path | None) -> str:
    """The key that a file holds, or an empty string without one. Raises CommandError."""
    if file is None:
        return ""
    with saying(f"{file} cannot be read"):
        key = file.read_bytes().removeprefix(BOM_UTF8).strip().decode("ascii", "replace")
    if not (key.isascii() and key.isprintable()):
        raise CommandError(f"{file} does not hold an API key: it must be one line of ASCII characters.")
    return key


def http_client(
    url: str, key: str = "", *, timeout_s: float, transport: httpx.BaseTransport | None = None
) -> httpx.Client:
    """A client of the service at `url`, which sends `key` with each request.

    Uses the proxies of the environment (HTTPS_PROXY, NO_PROXY), except for this machine. Raises CommandError
    if `url` is not an address.
    """
    try:
        address = httpx.URL(with_scheme(url))
    except httpx.InvalidURL as error:
        raise CommandError(f"--url {url}: {error}.") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise CommandError(f"--url {url} is not an address such as http://127.0.0.1:8000.")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    by_proxy = not is_loopback(address.host)
    timeout = httpx.Timeout(timeout_s, connect=CONNECT_S)
    return httpx.Client(
        base_url=address, headers=headers, timeout=timeout, transport=transport, trust_env=by_proxy
    )


def no_answer(url: str, error: Exception) -> str:
    """Why a request to `url` failed, without a full stop at the end."""
    reason = str(error).rstrip(".")
    if "refused" in reason.lower():
        return f"nothing listens at {url}: start a service with `millrace up`, or name another with --url"
    return f"{url} does not answer: {reason}"


def refusal(answer: httpx.Response) -> tuple[str, str]:
    """What an error of Millrace says, without a full stop, and its code; empty strings for another server."""
    try:
        body = answer.json()
        detail, code = body["detail"], body.get("code", "")
        if isinstance(detail, list):
            detail = "; ".join(one["msg"] for one in detail)
    except (ValueError, LookupError, TypeError, AttributeError):
        return "", ""
    return (detail, str(code)) if isinstance(detail, str) else ("", "")
