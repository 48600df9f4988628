"""`millrace key new NAME`: creates an API key for a client, and its digest for the service."""

from __future__ import annotations

import argparse

from api.keys import key_setting, new_key, valid_name
from millrace.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="create a key", description="Creates a key. It is not stored.")
    new.add_argument(
        "name", metavar="NAME", help="name of the client, used for its jobs, limits, metrics and log lines"
    )
    new.add_argument_group("example", "%(prog)s ada")


def run(args: argparse.Namespace) -> int:
    """Prints a new key and its entry for MILLRACE_API_KEYS."""
    if not valid_name(args.name):
        raise CommandError(
            f"invalid key name {args.name!r}: a name has up to 64 letters, digits, '.', '_' and '-', and "
            "begins with a letter or a digit."
        )
    key = new_key()
    print(f"key     {key}")
    print(f"digest  {key_setting(args.name, key)}")
    return 0
