"""`millrace jobs`: the worker behind /jobs, as a container starts it."""

from __future__ import annotations

import argparse
import importlib
from importlib.util import find_spec

from batcher.settings import JobSettings
from millrace.errors import CommandError
from millrace.settings_loader import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything is in the settings."""


def available() -> bool:
    """Whether this installation has a jobs worker."""
    return find_spec("batcher.jobs.main") is not None


def run(args: argparse.Namespace) -> int:
    """Works until it is told to stop."""
    settings = load_settings(JobSettings)
    if not available():
        raise CommandError("this version has no jobs worker.")
    status: int = importlib.import_module("batcher.jobs.main").main(settings)
    return status
