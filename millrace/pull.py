"""`millrace pull`: fetches a model from the Hugging Face Hub, so that workers find it."""

from __future__ import annotations

import argparse

from millrace.errors import CommandError
from millrace.installation import missing
from model_store.arguments import add_pull
from model_store.errors import ModelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Then: millrace up --model ORG/NAME@COMMIT."
    add_pull(parser)


def run(args: argparse.Namespace) -> int:
    """Fetches the model. The credentials are those of `hf auth login` or HF_TOKEN."""
    try:
        from model_store.commands import pull

        for line in pull(args):
            print(line)
    except ModelError as error:
        raise CommandError(str(error)) from None
    except ModuleNotFoundError as error:
        raise missing(error, "models") from None
    return 0
