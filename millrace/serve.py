"""`millrace serve`: the service in one container, as SageMaker and Vertex AI start an image."""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Mapping
from types import ModuleType

from api.dialect_names import DEFAULTS
from millrace import api, up

PORT = "8080"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=1, help="number of workers to start (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Starts all processes that the image contains. Settings that are given take precedence."""
    given = {name.upper() for name in os.environ}
    os.environ.update({name: value for name, value in _platform().items() if name not in given})
    if importlib.util.find_spec("model_store") is None:  # the image of the API
        return api.run(_arguments(api))
    words = ["--workers", str(args.workers)]
    if given & {"MILLRACE_REDIS_URL", "REDIS_URL"}:
        return up.run(_arguments(up, *words))
    with tempfile.TemporaryDirectory(prefix="millrace-") as directory:
        return up.run(_arguments(up, *words, "--no-disk", "--data-dir", directory))


def _arguments(command: ModuleType, *words: str) -> argparse.Namespace:
    """The arguments of another command, as it reads them itself."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def _platform() -> Mapping[str, str]:
    """The settings that platforms need: they admit requests themselves, and pass no API key on."""
    return {
        "MILLRACE_HOST": "0.0.0.0",  # noqa: S104  # a container has its own network
        "MILLRACE_PORT": os.environ.get("AIP_HTTP_PORT") or PORT,
        "MILLRACE_OPEN": "true",
        "MILLRACE_COMPAT": ",".join((*DEFAULTS, "sagemaker", "vertex")),
    }
