"""`millrace jobs`: the worker behind /jobs, as a container starts it."""

from __future__ import annotations

import argparse
import importlib
from importlib.util import find_spec

from batcher.settings import JobSettings
from millrace.errors import CommandError
from millrace.settings_loader import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: this command takes all its options from the settings."""


def available() -> bool:
    """Whether this installation includes the jobs worker."""
    return find_spec("batcher.jobs.main") is not None


def run(args: argparse.Namespace) -> int:
    settings = load_settings(JobSettings)
    if not available():
        raise CommandError("this installation does not include the jobs worker.")
    status: int = importlib.import_module("batcher.jobs.main").main(settings)
    return status
