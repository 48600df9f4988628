"""`millrace jobs`: the worker behind /jobs, as a container starts it."""

from __future__ import annotations

import argparse

from batcher.settings import JobSettings
from millrace.settings_loader import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: this command takes all its options from the settings."""


def run(args: argparse.Namespace) -> int:
    settings = load_settings(JobSettings)
    from batcher.jobs.main import main

    return main(settings)
