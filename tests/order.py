"""The order of the tests: long ones first, in every process of pytest-xdist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

# What imports torch: the last one looks for the names of all libraries that are used beyond their promises.
ENGINES = (
    *("tests/unit/model_store/", "tests/packaging/model/", "tests/families/", "tests/gpu/"),
    "tests/repo/test_private_names.py",
)
# Where long tests are, and how long one takes on average, in tenths of a second. Those of services wait.
LONG = {
    ENGINES: 10,
    (
        "tests/e2e/", "tests/faults/", "tests/cost/", "tests/proof/", "tests/mutation/",
        "tests/integration/test_pull.py", "tests/compat/test_rolling_update.py",
    ): 37,
    (
        "tests/integration/", "tests/search/", "tests/soak/", "tests/partitions/", "tests/simulation/",
        "tests/crossings/", "tests/repo/test_runs.py", "tests/repo/test_images.py",
    ): 8,
}  # fmt: skip


def long_first(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """The items in an order for `--dist worksteal`, which keeps random order within long and short ones.

    It gives each process an equal part of the items, and moves items from the end of a part to a process that
    has none left: short tests.
    """
    modules: dict[str, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.nodeid.partition("::")[0], []).append(item)
    short = [item for module, tests in modules.items() if not place(module) for item in tests]
    left = len(items)
    ordered: list[pytest.Item] = []
    for number, share in enumerate(_shares(modules, processes)):
        part = left // (processes - number)
        left -= part
        more = max(0, part - len(share))
        ordered += share + short[:more]
        del short[:more]
    return ordered + short


def _shares(modules: Mapping[str, list[pytest.Item]], processes: int) -> list[list[pytest.Item]]:
    """The long tests of each process: those of engines in one, because importing torch takes seconds."""
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    loads = [0] * processes
    for number, (places, tenths) in enumerate(LONG.items()):
        found = [tests for module, tests in modules.items() if place(module) == places]
        for tests in sorted(found, key=len, reverse=True):
            least = loads.index(min(loads)) if number else 0
            shares[least] += tests
            loads[least] += tenths * len(tests)
    return shares


def place(module: str) -> tuple[str, ...]:
    """The places of `LONG` that this module belongs to; none for a module of short tests."""
    return next((places for places in LONG if module.startswith(places)), ())
