"""`millrace pull`: fetches a model from the Hugging Face Hub, so that workers find it."""

from __future__ import annotations

import argparse

from millrace.installation import reporting_models
from model_store.arguments import add_pull


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Then: millrace up --model ORG/NAME@COMMIT."
    add_pull(parser)


def run(args: argparse.Namespace) -> int:
    """Fetches the model. The credentials are those of `hf auth login` or HF_TOKEN."""
    with reporting_models():
        from model_store.commands import pull

        for line in pull(args):
            print(line)
    return 0
