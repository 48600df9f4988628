"""`millrace train`: trains a classifier on a file of labelled texts, and says how to serve it."""

from __future__ import annotations

import argparse

from millrace.errors import CommandError
from millrace.installation import missing
from model_store.errors import ModelError
from model_store.training import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints what the data are like, the figures and the next command."""
    try:
        from model_store.training.run import serve_command, train

        result = train(command.order(args), print)
    except (ModelError, argparse.ArgumentTypeError) as error:
        raise CommandError(str(error)) from None
    except ModuleNotFoundError as error:
        raise missing(error, "build") from None
    for line in result.figures.lines():
        print(line)
    print(f"bag of words       {result.bag_of_words:.4f}")
    print(f"report             {args.out / 'report.html'}")
    print(f"serve it           {serve_command(args.out)}")
    return 0
