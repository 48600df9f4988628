"""`millrace console`: prints a link that opens the operator's console in a browser."""

from __future__ import annotations

import argparse

from millrace.addresses import api_address, with_scheme
from millrace.admin_client import AdminClient, add_arguments

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Prints the link, which works once, for ten minutes."""
    made = AdminClient.of(args).post("/admin/links", None)
    print(f"{with_scheme(args.url or api_address())}{made['path']}")
    return 0
