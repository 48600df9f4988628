"""`millrace push`: uploads a trained model to the Hugging Face Hub, and prints its pinned reference."""

from __future__ import annotations

import argparse
from pathlib import Path

from millrace.installation import reporting_models


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory of the model")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository; it is created if necessary")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")


def run(args: argparse.Namespace) -> int:
    """Uploads the model. The credentials are those of `hf auth login` or HF_TOKEN."""
    with reporting_models():
        from model_store.hub import push

        reference = push(args.directory, args.repository, private=args.private)
    print(f"pushed as {reference}")
    return 0
