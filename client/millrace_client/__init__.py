"""A client of Millrace, the text classification service: `Client`, and `AsyncClient` for asyncio."""

from millrace_client.aio import AsyncClient
from millrace_client.client import Client
from millrace_client.errors import JobError, MillraceError, RequestError, TextError, Unavailable
from millrace_client.options import Options
from millrace_client.results import Job, Model, Prediction, Progress

__all__ = [
    "AsyncClient",
    "Client",
    "Job",
    "JobError",
    "MillraceError",
    "Model",
    "Options",
    "Prediction",
    "Progress",
    "RequestError",
    "TextError",
    "Unavailable",
]
