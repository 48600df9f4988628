"""The `millrace` command line: imports only the requested command, runs it, and prints its errors."""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from batcher.gc_tuning import collect_rarely
from millrace.arguments import Parser, check_words
from millrace.errors import CommandError
from millrace.installation import check_packages, missing
from text_files.errors import FileError

# Commands and their summaries. Each is a module of this package with `add_arguments` and `run`.
COMMANDS = {
    "up": "start everything on this machine: Redis, API, workers, jobs worker",
    "api": "start the API, for example in a container",
    "worker": "start a batching worker",
    "jobs": "start the worker behind /jobs",
    "serve": "start everything that the image contains, as SageMaker and Vertex AI start it",
    "predict": "classify a few texts, and print their labels",
    "classify": "classify a file of texts through a job, with a progress bar",
    "train": "train a classifier on a file of labelled texts",
    "evaluate": "measure a model on labelled texts, and compare it with another",
    "sample": "choose the texts that the model is least certain of, as a file to label",
    "pull": "fetch a model from the Hugging Face Hub, before it is served",
    "push": "upload a trained model to the Hugging Face Hub",
    "top": "show live statistics of the service in the terminal",
    "status": "show the state of the service; exit status 0 if it can answer requests now",
    "console": "print a link that opens the operator's console in a browser, once",
    "trace": "show where the time of one request went, given its X-Request-ID",
    "publish": "publish another version of a model, for all texts or a share of them, or go back",
    "compare": "compare what a shadow would have answered with the actual answers",
    "forget": "remove a text, a client or a revision from everything that the service keeps",
    "key": "create an API key: `millrace key new NAME`",
    "config": "show every setting: its value, where that comes from, its unit and what it means",
    "completion": "print the script that completes commands and options in bash, zsh or fish",
}
# What a command is given in the example that its --help shows.
EXAMPLES = {
    "up": "--model ./my-model --workers 2",
    "api": "--host 0.0.0.0 --port 8000",
    "worker": "--model ./my-model",
    "serve": "--workers 2",
    "predict": '"I love you." "I hate you."',
    "classify": "reviews.csv --column review -o labelled.csv",
    "train": "labelled.csv --label-column topic -o topics",
    "evaluate": "test.csv --model topics --against default",
    "sample": "reviews.csv -n 100 -o to-label.csv",
    "pull": "winegarj/distilbert-base-uncased-finetuned-sst2@main",
    "push": "topics my-org/topics --private",
    "top": "--url http://10.0.0.7:8000",
    "status": "--url http://10.0.0.7:8000",
    "trace": "0123456789abcdef",
    "publish": "./my-new-model --share 0.05",
    "compare": "--model topics",
    "forget": "client ada",
    "key": "new ada",
    "config": "--json",
    "completion": "bash",
}
# Commands that run until they are stopped: their errors are faults, which need a traceback.
_PROCESSES = ("up", "api", "worker", "jobs", "serve")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command. Exit status 0 means success, 2 an error that the user can correct."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((word for word in words if not word.startswith("-")), "")
    if not words:
        command_parsers()[0].print_help(sys.stderr)
        return 2
    _have_a_home()
    _have_streams()
    collect_rarely()
    try:
        check_packages()
        command = _command(name) if name else None
        args = _parsed(words, name, command)
        assert command is not None, "argparse wants a command"
        status: int = command.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (CommandError, FileError) as error:
        print(f"millrace {name}: {error}", file=sys.stderr)
        return error.status
    except ModuleNotFoundError as error:
        if name in _PROCESSES:
            raise
        print(f"millrace {name}: {missing(error, name)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `millrace config | head`
        _drop_output()
        return 141
    except OSError as error:  # such as a full disk
        if name in _PROCESSES:
            raise
        print(f"{f'millrace {name}'.rstrip()}: {_reason(error)}.", file=sys.stderr)
        _drop_output()
        return 2
    return status


def _drop_output() -> None:
    """Keeps Python from retrying a write that failed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _reason(error: OSError) -> str:
    """What failed, with the name of the file if there is one."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or error}".rstrip(".")


def _have_streams() -> None:
    """Reopens streams that `>&-` closed, so that no file or connection gets their numbers, and the output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:  # print() would write to the standard output
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # as that of errors: not every locale has every character
        sys.stdout.reconfigure(errors="backslashreplace")


def _have_a_home() -> None:
    """Sets HOME as container engines do, if neither it nor the list of users has a home for this process."""
    if os.path.expanduser("~") == "~":  # that of Path raises RuntimeError
        os.environ["HOME"] = "/"


def _command(name: str) -> ModuleType:
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`millrace --help` lists the commands."
        raise CommandError(f"there is no such command; {hint}")
    return importlib.import_module(f"millrace.{name}")


def _parsed(words: Sequence[str], name: str, command: ModuleType | None) -> argparse.Namespace:
    """The arguments. A wrong option ends with the usage of its command and the option that may be meant."""
    parser, parsers = command_parsers()
    of_command = parsers.get(name, parser)
    if command is not None:
        command.add_arguments(of_command)
    try:
        args, wrong = parser.parse_known_args(words)
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()  # what --help or --version wrote
        raise
    if wrong:
        options = re.findall(r"--[a-z-]+", of_command.format_usage())
        close = difflib.get_close_matches(wrong[0].partition("=")[0], options, n=1)
        of_command.error(f"unknown argument {wrong[0]}{f'; did you mean {close[0]}?' if close else ''}")
    check_words(args)
    return args


def command_parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command line, and that of each command, still without its arguments."""
    parser = Parser(prog="millrace", description="Queue-backed, micro-batching text classification.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parser.add_argument_group("example", "%(prog)s classify reviews.csv -o labelled.csv")
    parsers = {
        name: commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for name, summary in COMMANDS.items()
    }
    for name, made in parsers.items():
        made.add_argument_group("example", f"%(prog)s {EXAMPLES.get(name, '')}")
    return parser, parsers


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from batcher.version import own_version

        print(f"millrace {own_version()}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
