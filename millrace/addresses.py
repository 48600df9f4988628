"""The address of a service, by the settings or as people type it."""

from __future__ import annotations

from api.settings import ApiSettings
from millrace.settings_loader import load_settings


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
