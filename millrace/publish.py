"""`millrace publish`: lets workers load another revision of a model, and answer with it when all have."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from millrace.admin_client import AdminClient
from millrace.admin_client import add_arguments as add_client_arguments
from millrace.errors import CommandError

LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("reference", metavar="MODEL", nargs="?", help="a directory, or org/name@revision")
    what.add_argument("--back", action="store_true", help="go back to the revision before")
    parser.add_argument("--model", default="", metavar="NAME", help="of several models; default: the first")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="default: 600")
    add_client_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit status 1 if an API process has not confirmed that it answers with the revision."""
    client = AdminClient.of(args)
    number = None
    if not args.back:
        number = _loaded(client, args)
    body: dict[str, Any] = {"model": args.model} | ({} if number is None else {"number": number})
    moved = client.post("/admin/models/move", body)
    print(f"{moved['model']}: revision {moved['number']} answers, {moved['before']} did before")
    if moved["unconfirmed"]:
        late = ", ".join(moved["unconfirmed"])
        print(f"not confirmed by {late}: they answer with it once they reach Redis")
        return 1
    print(f"go back with: millrace publish --back{f' --model {args.model}' if args.model else ''}")
    return 0


def _loaded(client: AdminClient, args: argparse.Namespace) -> int:
    """Publishes the revision, and returns its number once every worker serves it. Raises CommandError."""
    path = Path(args.reference).expanduser()
    reference = str(path.resolve()) if path.is_dir() else args.reference
    asked = client.post("/admin/models/publish", {"model": args.model, "reference": reference})
    number, until = int(asked["number"]), time.monotonic() + args.timeout
    print(f"{asked['model']}: workers load revision {number}")
    while True:
        time.sleep(LOOK_S)
        state = client.get("/admin/models")["models"][asked["model"]]
        one, current = state["revisions"][str(number)], state["revisions"][str(state["current"])]
        if one["failure"]:
            why = f"a worker cannot serve it, so nothing has changed: {one['failure']}"
            raise CommandError(why, status=1)
        if one["workers"] >= max(current["workers"], 1):
            return number
        if time.monotonic() > until:
            raise CommandError(
                f"{one['workers']} of {current['workers']} workers serve it after {args.timeout:g} s, so "
                "nothing has changed",
                status=1,
            )
