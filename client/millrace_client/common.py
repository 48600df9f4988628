"""Code that both clients share besides flows."""

from __future__ import annotations

import ssl
from collections.abc import Sized
from typing import Any, TypedDict

import httpx

from millrace_client.errors import JobError, RequestError
from millrace_client.options import Options
from millrace_client.results import Job

# Refusals of a job whose texts /predict can still answer: no jobs (as below the path of a model), no space
# for it, too many texts, or an invalid one, which is refused alone there.
_NO_JOB = frozenset((404, 405, 413, 415, 422, 501, 507))


class Connection(TypedDict, total=False):
    """How a client connects: see `Client`."""

    verify: ssl.SSLContext | bool
    proxy: str
    timeout: float


def checked_url(url: str) -> str:
    """`url`, with a clear ValueError if no request can be sent there."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        # It is not repeated, since it may contain a password.
        raise ValueError("url must begin with http:// or https:// and a host, as in http://localhost:8000")
    return url


def headers_of(api_key: str) -> dict[str, str]:
    """The headers of every request. Raises ValueError for a key that no header can have."""
    if not (api_key.isascii() and api_key.isprintable()):
        # The error of httpx would repeat the key.
        raise ValueError(
            "api_key has a character that no key can have, such as the line break of a file: strip it"
        )
    headers = {"user-agent": "millrace-client", "accept": "application/json"}
    return headers | ({"authorization": f"Bearer {api_key}"} if api_key else {})


def check_texts(texts: Any) -> None:
    """Raises TypeError for a single string, which would be classified letter by letter."""
    if isinstance(texts, str):
        raise TypeError("texts must be an iterable of strings: pass [text] for a single text")


def becomes_job(texts: Any, options: Options) -> bool:
    """Whether there are so many texts that a job should classify them."""
    return options.job_from is not None and isinstance(texts, Sized) and len(texts) >= options.job_from


def refused_as_job(error: RequestError) -> bool:
    """Whether texts that were refused as a job can be sent to /predict."""
    return error.status in _NO_JOB


def job_error(job: Job) -> JobError:
    """The error of a job that has ended without finishing."""
    detail = job.error or ("the job was cancelled" if job.status == "cancelled" else "the job failed")
    return JobError(detail, code=job.error_code or job.status, job_id=job.id)


def id_of(job: Job | str) -> str:
    return job if isinstance(job, str) else job.id
