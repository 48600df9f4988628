"""`millrace key new NAME`: creates an API key for a client, and its digest for the service."""

from __future__ import annotations

import argparse
import secrets
from hashlib import sha256

from api.keys import valid_name
from millrace.errors import CommandError

_KEY_BYTES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="create a key", description="Creates a key. It is not stored.")
    new.add_argument(
        "name", metavar="NAME", help="name of the client, used for its jobs, limits, metrics and log lines"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a new key and its entry for MILLRACE_API_KEYS."""
    if not valid_name(args.name):
        raise CommandError(
            f"invalid key name {args.name!r}: a name has up to 64 letters, digits, '.', '_' and '-', and "
            "begins with a letter or a digit."
        )
    key = secrets.token_urlsafe(_KEY_BYTES)
    print(f"key     {key}")
    print(f"digest  {args.name}:{sha256(key.encode()).hexdigest()}")
    return 0
