"""What requests cost: `python -m tests.cost [--planted [NAME]]`.

Sends the worst bodies of every route in all sizes. `--planted` takes out each repair, or those with NAME in
their name, in a copy of the repository instead, and ends with status 1 if the tests of one do not notice it.
"""

from __future__ import annotations

import argparse
import os
import sys

import pytest

from tests.cost.planted import PLANTED, find


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cost", description=__doc__)
    parser.add_argument("--planted", nargs="?", const="", help="a repair to take out; all by default")
    args = parser.parse_args()
    os.environ["COST_LARGE"] = "1"
    if args.planted is not None:
        return find([one.name for one in PLANTED if args.planted in one.name])
    return pytest.main(["-n", "0", "-s", "-m", "long or not long", "tests/cost"])


if __name__ == "__main__":
    sys.exit(main())
