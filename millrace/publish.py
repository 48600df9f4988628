"""`millrace publish`: lets workers load another version of a model, and answer with it once all have."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millrace.errors import CommandError
from millrace.preparing import Changes
from millrace.service_client import AdminClient, NoAnswer, add_client_arguments, add_model_argument

LOOK_S = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="MODEL", nargs="?", help="a directory, or org/name@revision")
    what = parser.add_mutually_exclusive_group()
    share = "let it answer this share of the texts, such as 0.05; without MODEL, change the share"
    what.add_argument("--share", type=_share, metavar="SHARE", help=share)
    shadow = "let it compute this share of the texts too without answering them: see `millrace compare`"
    what.add_argument("--shadow", type=_share, metavar="SHARE", help=shadow)
    what.add_argument(
        "--all", action="store_true", help="let the candidate, which has a share, answer all texts"
    )
    what.add_argument(
        "--back", action="store_true", help="end a share or shadow, or go back to the publication before"
    )
    by = "whether it is a share of the texts or of the clients (default: as before, at first text)"
    parser.add_argument("--by", choices=("text", "client"), help=by)
    add_model_argument(parser)
    timeout = "how long to wait until the workers serve the model (default: 600)"
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help=timeout)
    add_client_arguments(parser, AdminClient)


def run(args: argparse.Namespace) -> int:
    """Exit status 1 if an API process or a shard does not have the change yet."""
    if args.reference and (args.all or args.back):
        raise CommandError(f"--{'all' if args.all else 'back'} takes no model.")
    if not (args.reference or args.all or args.back or args.share or args.shadow):
        raise CommandError("say which model, or one of --share, --shadow, --all and --back.")
    if args.by and not (args.share or args.shadow):
        raise CommandError("--by chooses between texts and clients: use it with --share or --shadow.")
    if not args.timeout >= 0:
        raise CommandError("--timeout must be 0 or more.")
    client = AdminClient.of(args)
    number = _loaded(client, args) if args.reference else None
    if args.share or args.shadow:
        return _try_out(client, args, number)
    if args.all:
        number = _candidate(client, args)
    body: dict[str, Any] = {"model": args.model} | ({} if number is None else {"number": number})
    moved = client.post("/admin/models/move", body)
    if moved["number"] == moved["before"]:
        print(f"{moved['model']}: publication {moved['number']} answers all texts")
    else:
        print(f"{moved['model']}: publication {moved['number']} now answers instead of {moved['before']}")
    return _confirmed(moved, args)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return share


def _try_out(client: AdminClient, args: argparse.Namespace, number: int | None) -> int:
    shadow = args.shadow is not None
    body = {"model": args.model, "share": args.shadow if shadow else args.share, "shadow": shadow}
    given = {"by": args.by, "number": number}
    body |= {name: value for name, value in given.items() if value is not None}
    tried = client.post("/admin/models/candidate", body)
    candidate, current = tried["candidate"], tried["current"]
    what = "texts" if candidate["by"] == "text" else "clients"
    share = f"all {what}" if candidate["share"] == 1 else f"{candidate['share']:.4g} of the {what}"
    tries = f"{tried['model']}: publication {candidate['number']}"
    if shadow:
        print(f"{tries} computes {share} without answering them; publication {current} answers all")
        print(f"compare them with: millrace compare{_model(args)}")
    else:
        print(f"{tries} answers {share}, publication {current} the others")
        print(f"let it answer all texts with: millrace publish --all{_model(args)}")
    return _confirmed(tried, args)


def _confirmed(done: dict[str, Any], args: argparse.Namespace) -> int:
    down = ", ".join(map(str, done.get("shards_down", ())))
    if down:
        print(f"shard {down} does not have this yet: it gets it once its Redis answers and has memory")
    if done["unconfirmed"]:
        late = ", ".join(done["unconfirmed"])
        print(f"not confirmed by {late}: API processes follow once they reach Redis")
    if down or done["unconfirmed"]:
        return 1
    if not args.back:
        print(f"go back with: millrace publish --back{_model(args)}")
    return 0


def _model(args: argparse.Namespace) -> str:
    return f" --model {args.model}" if args.model else ""


def _candidate(client: AdminClient, args: argparse.Namespace) -> int:
    """The number of the publication that has a share. Raises CommandError."""
    models: dict[str, Any] = client.get("/admin/models")["models"]
    name = args.model or next(iter(models), "")
    candidate = models.get(name, {}).get("candidate")
    if candidate is None:
        raise CommandError(
            "no publication has a share of the texts, so nothing has changed: begin with "
            "`millrace publish MODEL --share SHARE`."
        )
    return int(candidate["number"])


def _ended(asked: dict[str, Any]) -> Iterator[str]:
    """A line for each publication that workers drop for a new one."""
    candidate = asked.get("ended") or {}
    for number in asked.get("dropped", ()):
        if number == candidate.get("number"):
            yield f"publication {number} ends, and with it its {candidate['mode']} of the texts"
        else:
            yield f"publication {number} ends: you can no longer go back to it"


def _loaded(client: AdminClient, args: argparse.Namespace) -> int:
    """Publishes the model, and returns its number once every worker serves it. Raises CommandError."""
    path = Path(args.reference).expanduser()
    reference = str(path.resolve()) if os.path.isdir(path) else args.reference
    asked = client.post("/admin/models/publish", {"model": args.model, "reference": reference})
    number, began = int(asked["number"]), time.monotonic()
    print(f"{asked['model']}: workers load publication {number}")
    for line in _ended(asked):
        print(line)
    changes = Changes()
    changes.note("ready", 0)
    while True:
        time.sleep(LOOK_S)
        waited_s = time.monotonic() - began
        try:
            answer = client.get("/admin/models")
        except NoAnswer:  # an API process may be starting again
            if waited_s > args.timeout:
                raise
            continue
        ready, needed, before = _progress(answer, asked["model"], number)
        if ready >= needed:
            return number
        if waited_s > args.timeout:
            raise CommandError(
                f"{ready} of {needed} workers serve it after {args.timeout:g} s, so {before}: see the "
                "workers' logs, or wait longer with --timeout.",
                status=1,
            )
        loading = [each for each in answer["preparing"] if each["reference"] == reference]
        for line in changes.preparing(loading):
            print(line, flush=True)
        if changes.due("ready", ready):
            print(f"waiting for {waited_s:.0f} s: {ready} of {needed} workers serve it", flush=True)


def _progress(answer: dict[str, Any], model: str, number: int) -> tuple[int, int, str]:
    """How many workers serve a publication and how many have to, and what answers. Raises CommandError."""
    state = answer["models"].get(model, {"current": 0, "revisions": {}})
    one, current = (state["revisions"].get(str(each)) for each in (number, state["current"]))
    if one is None or current is None:
        why = f"publication {number} has ended: another one was published, or the model has no worker."
        raise CommandError(why, status=1)
    before = f"publication {state['current']} answers as before"
    if one["failure"]:
        raise CommandError(f"a worker cannot serve it, so {before}: {one['failure']}", status=1)
    return one["workers"], max(current["workers"], 1), before
