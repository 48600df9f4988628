"""The address of a service, as people type it, and what to say if it does not answer."""

from __future__ import annotations


def with_scheme(url: str) -> str:
    """`url` without a slash at its end; `host:port` means http."""
    return url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"


def no_answer(url: str, error: Exception) -> str:
    """Why a request to `url` failed, without a full stop at the end."""
    reason = str(error).rstrip(".")
    if "refused" in reason.lower():
        return f"nothing listens at {url}: start a service with `millrace up`, or name another with --url"
    return f"{url} does not answer: {reason}"
