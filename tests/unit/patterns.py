"""Regular expressions against hostile text: strings made for a pattern, and the processor time they cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from time import process_time
from typing import Any

# What repeats up to so often is not a repeat without a bound.
BOUNDED = 300
# Small ones first, since exponential ones would not end. Linear ones take a hundredth of the limit.
SIZES = (16, 20, *(2**power for power in range(5, 15)))
MAX_S_A_CHARACTER = 5e-6
# More than a call of a reader takes while its lines are recorded.
NOISE_S = 2e-3
# Below it, growth says nothing.
MEASURABLE_S = 5e-3
# What ends the repeats, and makes a match fail.
ENDS = ("", "\0", "\n", "!", '""x', "\\", "\x80", " x", ";", ",x")


class Costly(AssertionError):
    """A pattern takes more than linear time for some text."""


def attacks(pattern: str | bytes) -> Iterator[tuple[str, str, str]]:
    """(before, repeated, after) for each repeat without a bound in a pattern, and for characters it names."""
    text = pattern.decode("latin-1") if isinstance(pattern, bytes) else pattern
    tree = re._parser.parse(text)  # type: ignore[attr-defined]
    named = sorted(set(_characters(tree))) or ["a"]
    befores = {""} | {before for before, _ in _repeats("", tree)}
    units = (
        {unit for _, units in _repeats("", tree) for unit in units} | set(named[:12]) | {"a", " ", "a ", "\t"}
    )
    for before in sorted(befores):
        for unit in sorted(units):
            for end in ENDS:
                yield before, unit, end


def check_linear(use: Any, *, binary: bool, shapes: Iterable[tuple[str, str, str]]) -> None:
    """Raises Costly where a character takes long, or the time triples with twice the text, twice in a row."""
    for before, unit, after in shapes:
        earlier = former = taken = 0.0
        for size in SIZES:
            text = before + unit * (size // len(unit)) + after
            given = text.encode("latin-1", "replace") if binary else text
            earlier, former, taken = former, taken, _seconds(use, given)
            grows = taken > MEASURABLE_S and taken > 3 * former and former > 3 * earlier
            if grows or taken > NOISE_S + MAX_S_A_CHARACTER * len(text):
                raise Costly(f"{taken * 1e3:.1f} ms for {before!r} + {size} of {unit!r} + {after!r}")


def _seconds(use: Any, given: object) -> float:
    """Processor time of one use; the least of three where it looks like much."""
    least = float("inf")
    for _ in range(3):
        began = process_time()
        use(given)
        least = min(least, process_time() - began)
        if least < NOISE_S:
            break
    return least


def _repeats(before: str, tree: Any) -> Iterator[tuple[str, set[str]]]:
    """Each repeat without a bound: what stands before it, and what it may repeat."""
    for operation, value in tree:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            if int(most) > BOUNDED:
                yield before, set(_characters(inner)) | {_sample(inner)} - {""}
            yield from _repeats(before, inner)
            before += _sample(inner) * max(least, 1)
            continue
        for inner in _inside(name, value):
            yield from _repeats(before, inner)
        before += _sample([(operation, value)])


def _inside(name: str, value: Any) -> list[Any]:
    if name == "SUBPATTERN":
        return [value[-1]]
    if name == "BRANCH":
        return list(value[1])
    if name in ("ASSERT", "ASSERT_NOT"):
        return [value[1]]
    if name == "ATOMIC_GROUP":
        return [value]
    return []


def _sample(tree: Any) -> str:
    """A short text that it matches, more or less."""
    text = ""
    for operation, value in tree:
        name = str(operation)
        if name == "LITERAL":
            text += chr(value)
        elif name == "IN":
            text += next(iter(_of_class(value)))
        elif name in ("ANY", "NOT_LITERAL"):
            text += "a"
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            text += _sample(value[2]) * value[0]
        elif name in ("SUBPATTERN", "BRANCH", "ATOMIC_GROUP"):
            text += _sample(_inside(name, value)[0])
    return text


def _characters(tree: Any) -> Iterator[str]:
    """Characters that it names."""
    for operation, value in tree:
        name = str(operation)
        if name in ("LITERAL", "NOT_LITERAL"):
            yield chr(value)
        elif name == "IN":
            yield from _of_class(value)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            yield from _characters(value[2])
        for inner in _inside(name, value):
            yield from _characters(inner)


def _of_class(parts: Any) -> list[str]:
    if str(parts[0][0]) == "NEGATE":
        refused = {chr(value) for operation, value in parts[1:] if str(operation) == "LITERAL"}
        return [one for one in "a 0" if one not in refused]
    found = []
    for operation, value in parts:
        if str(operation) == "LITERAL":
            found.append(chr(value))
        elif str(operation) == "RANGE":
            found.append(chr(value[0]))
        else:
            found.append({"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " "}.get(str(value), "a"))
    return found
