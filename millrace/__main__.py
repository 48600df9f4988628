"""The `millrace` command line: imports only the requested command, runs it, and prints its errors."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from millrace.errors import CommandError
from millrace.installation import DISTRIBUTION, check_packages

# Commands and their summaries. Each is a module of this package with `add_arguments` and `run`.
COMMANDS = {
    "up": "start everything on this machine: Redis, API, workers, jobs worker",
    "api": "start the API, for example in a container",
    "worker": "start a batching worker",
    "jobs": "start the worker behind /jobs",
    "serve": "start everything that the image contains, as SageMaker and Vertex AI start it",
    "classify": "classify a file of texts through a job, with a progress bar",
    "train": "train a classifier on a file of labelled texts",
    "evaluate": "measure a model on labelled texts, and compare it with another",
    "sample": "choose the texts that the model is least certain of, as a file to label",
    "push": "upload a trained model to the Hugging Face Hub",
    "top": "show live statistics of the service in the terminal",
    "status": "show the state of the service; exit status 0 if it can answer requests now",
    "trace": "show where the time of one request went, from its X-Request-ID",
    "publish": "let workers load another revision of a model, and answer all texts or a share; or go back",
    "compare": "show what a revision that shadows the one that answers would have answered",
    "forget": "remove a text, a client or a revision from everything that the service keeps",
    "key": "create an API key: `millrace key new NAME`",
    "config": "show every setting: its value, where that comes from, its unit and what it means",
}


class Command(Protocol):
    """The interface of a command's module."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's options to `parser`."""

    def run(self, args: argparse.Namespace) -> int:
        """Runs the command and returns the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status 0 means success, 2 an error that the user can correct."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), "")
    if not words:
        _parser("", None)[0].print_help(sys.stderr)
        return 2
    try:
        check_packages()
        command = _command(name) if name in COMMANDS else None
        args = _parsed(words, name, command)
        assert command is not None, "argparse rejects unknown commands"
        return command.run(args)
    except CommandError as error:
        print(f"millrace {name}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `millrace config | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _command(name: str) -> Command:
    return cast(Command, importlib.import_module(f"millrace.{name}"))


def _parsed(words: Sequence[str], name: str, command: Command | None) -> argparse.Namespace:
    """The arguments. A wrong option ends with the usage of its command and the option that may be meant."""
    parser, of_command = _parser(name, command)
    args, wrong = parser.parse_known_args(words)
    if wrong:
        options = re.findall(r"--[a-z-]+", of_command.format_usage())
        close = difflib.get_close_matches(wrong[0].partition("=")[0], options, n=1)
        of_command.error(f"unknown argument {wrong[0]}{f'; did you mean {close[0]}?' if close else ''}")
    return args


def _parser(chosen: str, command: Command | None) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser of all commands, and that of the chosen one."""
    parser = argparse.ArgumentParser(
        prog="millrace", description="Queue-backed, micro-batching text classification."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parser_of_chosen = parser
    for name, summary in COMMANDS.items():
        of_command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        if command is not None and name == chosen:
            command.add_arguments(of_command)
            parser_of_chosen = of_command
    return parser, parser_of_chosen


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"millrace {version(DISTRIBUTION)}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
