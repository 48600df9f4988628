"""`millrace train`: trains a classifier on a file of labelled texts, and says how to serve it."""

from __future__ import annotations

import argparse

from millrace.installation import reporting_models
from model_store.training import command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints what the data are like, the figures and the next command."""
    with reporting_models():
        from model_store.training.run import serve_command, train

        result = train(command.order(args), print)
    for line in result.figures.lines():
        print(line)
    print(f"bag of words       {result.bag_of_words:.4f}")
    print(f"report             {args.out / 'report.html'}")
    print(f"serve it           {serve_command(args.out)}")
    return 0
