"""The address of a service as typed by people, its key, a client for it, and errors if it does not answer."""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import TYPE_CHECKING

from api.origins import is_loopback
from api.settings import ApiSettings
from millrace.errors import CommandError
from millrace.settings_loader import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

# How long to wait for a connection.
CONNECT_S = 5.0


def api_address() -> str:
    """The address of the API by the settings. Raises CommandError if they are invalid."""
    settings = load_settings(ApiSettings)
    return base_url(settings.host, settings.port)


def base_url(host: str, port: int) -> str:
    """The URL by which this machine reaches a server that listens there."""
    host = reachable(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def reachable(host: str) -> str:
    """The address of this machine for a server that listens on `host`, which may stand for all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # read, not bound


def with_scheme(url: str) -> str:
    """`url` without a slash at its end; `host:port` means http."""
    return url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"


def read_key(file: Path | None) -> str:
    """The key that a file holds, or an empty string without one. Raises CommandError."""
    if file is None:
        return ""
    try:
        key = file.read_bytes().removeprefix(BOM_UTF8).strip().decode("ascii", "replace")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
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
        import httpx
    except ImportError:
        raise CommandError("the package httpx is missing: pip install 'millrace-server[cli]'.") from None
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
