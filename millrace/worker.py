"""`millrace worker`: one batching worker, as a container starts it."""

from __future__ import annotations

import argparse

from batcher.settings import WorkerSettings
from millrace.installation import missing
from millrace.settings_loader import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        help="default, a directory, or org/name@revision; several: default,topics=DIR (MILLRACE_MODEL)",
    )
    parser.add_argument("--engine", help="auto, torch, openvino or stub (MILLRACE_ENGINE)")


def run(args: argparse.Namespace) -> int:
    settings = load_settings(WorkerSettings, model=args.model, engine=args.engine)
    try:
        from batcher.__main__ import main
    except ModuleNotFoundError as error:
        raise missing(error, "worker") from None
    return main(settings)
