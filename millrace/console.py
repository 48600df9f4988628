"""`millrace console`: prints a link that opens the operator's console in a browser."""

from __future__ import annotations

import argparse

from millrace.service_client import ADMIN_KEY_FILE, AdminClient
from millrace.service_client import add_arguments as add_client_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser, ADMIN_KEY_FILE)


def run(args: argparse.Namespace) -> int:
    """Prints the link, which works once, for ten minutes."""
    client = AdminClient.of(args)
    print(f"{client.url}{client.post('/admin/links', None)['path']}")
    return 0
