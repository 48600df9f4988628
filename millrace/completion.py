"""`millrace completion`: the script with which a shell completes commands, options and files."""

from __future__ import annotations

import argparse
import importlib

# Places of arguments that are files or folders.
_PATHS = ("FILE", "OUT", "DIR")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell to complete in")


def run(args: argparse.Namespace) -> int:
    import shtab

    from millrace.__main__ import COMMANDS, command_parsers

    parser, parsers = command_parsers()
    for name in COMMANDS:
        try:
            importlib.import_module(f"millrace.{name}").add_arguments(parsers[name])
        except ModuleNotFoundError:  # a command of an extra that is not installed
            continue
        for action in parsers[name]._actions:
            if action.metavar in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=args.shell))
    return 0
