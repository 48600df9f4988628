"""`millrace console`: prints a link that opens the operator's console in a browser."""

from __future__ import annotations

import argparse

from millrace.service_client import AdminClient, add_client_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser, AdminClient)


def run(args: argparse.Namespace) -> int:
    """Prints the link, which works once, for ten minutes."""
    client = AdminClient.of(args)
    print(f"{client.url}{client.post('/admin/links', None)['path']}")
    return 0
