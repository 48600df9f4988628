"""Draws situations and checks every promise of docs/guarantees.md in them.

    python -m tests.crossings [--minutes 10] [--seed 7] [--only "plain / oip / none / 1"] [--first]
                              [--promises "answers are right" ...]
    python -m tests.crossings --planted [NAME]

A situation is a service, some routes and what happens meanwhile; `--only` runs one, as it is printed. Pairs
that were not seen come first. What breaks a promise is made smaller, and the status is 1. `--planted` takes
repairs out of a copy of the repository, one at a time, and says how long it takes to notice each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.crossings.planted import PLANTED, find
from tests.crossings.promises import PROMISES
from tests.crossings.session import Session
from tests.crossings.situations import Situation
from tests.servers import server_binary


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crossings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--only", default="", help="one situation")
    parser.add_argument("--first", action="store_true", help="end with the first broken promise")
    parser.add_argument(
        "--promises", nargs="+", choices=PROMISES, default=[*PROMISES], help="check these only"
    )
    parser.add_argument("--planted", nargs="?", const="", help="a repair to take out; all by default")
    args = parser.parse_args()
    if args.planted is not None:
        names = [one.name for one in PLANTED if args.planted in one.name]
        return find(names, args.minutes, args.seed)
    binary = server_binary()
    if binary is None:
        raise SystemExit("Cannot run: no redis-server.")
    began = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    print(f"seed {args.seed}", flush=True)
    session = Session(binary, args.seed, report, shrink=not args.first, promises=args.promises)
    try:
        if args.only:
            situation = Situation.parse(args.only)
            session.found += [(situation, broken)] if (broken := session.cross(situation)) else []
        else:
            session.run(began + args.minutes * 60, first_only=args.first)
    finally:
        session.close()
    return _report(session)


def _report(session: Session) -> int:
    """Prints the coverage and what was found. Returns the exit status."""
    draw = session.draw
    seen = draw.seen & draw.possible
    print(
        f"seed {session.seed}: {session.count} situations, {len(seen)} of {len(draw.possible)} pairs "
        f"({len(seen) / len(draw.possible):.1%}), {len(session.found)} broke a promise"
    )
    for situation, broken in session.found:
        for name, count in Counter(one.promise for one in broken).items():
            how = next(one.how for one in broken if one.promise == name)
            print(f"BROKEN {count} x {name}: {how}\n       --only '{situation}'")
    return 1 if session.found else 0


if __name__ == "__main__":
    sys.exit(main())
