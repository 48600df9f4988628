"""The memory sum of docs/costs.md."""

from __future__ import annotations

import re
from pathlib import Path

from tests.limits import MIB, limit_bytes

PAGE = Path(__file__).parents[2] / "docs/costs.md"


def test_the_parts_of_the_api_fit_into_its_limit() -> None:
    _, _, below = PAGE.read_text().partition("| part | at most | bound |\n|---|---|---|\n")
    rows = re.findall(r"^\| ([^|]+) \| (\d+) MiB", below.partition("\n\n")[0], re.MULTILINE)
    *parts, (last, total) = rows
    assert last == "together"
    assert len(parts) == len(below.partition("\n\n")[0].splitlines()) - 1, "a row does not say its MiB"
    assert sum(int(mib) for _, mib in parts) == int(total)
    assert int(total) * MIB < limit_bytes("api")
