"""The address of a service, as people type it, and what to say if it does not answer."""

from __future__ import annotations

from api.settings import ApiSettings
from millrace.settings_loader import load_settings


def api_address() -> str:
    """The address of the API by the settings. Raises CommandError if they are invalid."""
    settings = load_settings(ApiSettings)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://{host}:{settings.port}"


def with_scheme(url: str) -> str:
    """`url` without a slash at its end; `host:port` means http."""
    return url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"


def no_answer(url: str, error: Exception) -> str:
    """Why a request to `url` failed, without a full stop at the end."""
    reason = str(error).rstrip(".")
    if "refused" in reason.lower():
        return f"nothing listens at {url}: start a service with `millrace up`, or name another with --url"
    return f"{url} does not answer: {reason}"
