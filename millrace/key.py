"""`millrace key new NAME`: an API key for a client, and its digest for the service."""

from __future__ import annotations

import argparse
import secrets
from hashlib import sha256

from api.keys import valid_name
from millrace.errors import CommandError

_KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and for whom."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key", description="Makes a key; nothing is stored.")
    new.add_argument(
        "name", metavar="NAME", help="whose key it is: jobs, limits, metrics and log lines belong to the name"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a new key and its entry of MILLRACE_API_KEYS."""
    if not valid_name(args.name):
        raise CommandError(
            f"a key cannot be called {args.name!r}: a name has up to 64 letters, digits, '.', '_' and "
            "'-', and begins with a letter or a digit."
        )
    key = secrets.token_urlsafe(_KEY_BYTES)
    print(f"key     {key}")
    print(f"digest  {args.name}:{sha256(key.encode()).hexdigest()}")
    return 0
