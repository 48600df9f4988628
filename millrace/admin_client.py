"""A client of the routes under /admin, for the commands of operators."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from millrace.addresses import api_address, http_client, no_answer, read_key, refusal, with_scheme
from millrace.errors import CommandError
from millrace.local.operator_key import NAME, find_key

# Walking over a large Redis takes a while.
TIMEOUT_S = 300.0
KEY_HELP = (
    "file that holds an operator's key (default: the one that your `millrace up` at this address wrote)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="address of the API (default: by MILLRACE_HOST and MILLRACE_PORT)")
    parser.add_argument("--admin-key-file", type=Path, help=KEY_HELP)


class AdminClient:
    """Sends requests to one API. Every failure is a CommandError."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = with_scheme(url)
        self._http = http_client(url, key, timeout=TIMEOUT_S)

    @classmethod
    def of(cls, args: argparse.Namespace) -> AdminClient:
        """Connects to the API given by the arguments or, by default, by the settings."""
        url = args.url or api_address()
        return cls(url, read_key(args.admin_key_file) or find_key(url))

    def get(self, path: str, **query: object) -> dict[str, Any]:
        return self.request("GET", path, params={name: value for name, value in query.items() if value != ""})

    def post(self, path: str, body: object) -> dict[str, Any]:
        return self.request("POST", path, json=body)

    def request(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        """The JSON of an answer. Raises CommandError."""
        import httpx

        try:
            answer = self._http.request(method, path, **more)
            body = answer.json()
        except httpx.HTTPError as error:
            raise CommandError(f"{no_answer(self._url, error)}.", status=1) from None
        except ValueError:
            raise CommandError(f"{self._url}{path} did not answer JSON: is this a Millrace API?") from None
        if answer.status_code == 401:
            raise CommandError(
                f"{self._url} requires the key of an operator: use --admin-key-file. "
                f"`millrace up` writes one to {NAME} in its data directory."
            )
        if answer.status_code >= 400:
            detail, _ = refusal(answer)
            other = f"{self._url}{path} answered {answer.status_code}: is this a Millrace API?"
            raise CommandError(f"{detail}." if detail else other)
        found: dict[str, Any] = body
        return found
