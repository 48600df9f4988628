"""How texts become the arrays that one model is given. Its manifest records this. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# Which texts may share a forward pass of a model that pads: any, only equally long ones, or none.
Sharing = Literal["any", "equal", "none"]


@dataclass(frozen=True, slots=True)
class TokenTypes:
    """The types of the tokens before, of and after those of a text itself."""

    before: tuple[int, ...]
    own: int
    after: tuple[int, ...]

    def of(self, length: int) -> list[int]:
        """The types of all tokens of a text with `length` tokens."""
        inner = length - len(self.before) - len(self.after)
        return [*self.before, *[self.own] * inner, *self.after]

    @property
    def all_zero(self) -> bool:
        return not any((*self.before, self.own, *self.after))


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a model beside the ids of a text.

    Tokens with the id `unnumbered` have position 0, and the others are counted from 1; None: all are counted
    from 0. `filler` is the id of padding, and `sharing` says which texts may be padded to the same length.
    `token_types` are None for a model that gets none, or that runs in packed rows.
    """

    unnumbered: int | None = None
    filler: int = 0
    sharing: Sharing = "any"
    token_types: TokenTypes | None = None


PLAIN = Inputs()


def read_inputs(value: dict[str, Any]) -> Inputs:
    """The inverse of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for other values."""
    types = value["token_types"]
    unnumbered, filler, sharing = value["unnumbered"], value["filler"], value["sharing"]
    if sharing not in ("any", "equal", "none") or type(filler) is not int or not _is_id(unnumbered):
        raise ValueError(f"its inputs are {value}")
    if types is not None:
        types = TokenTypes(_numbers(types["before"]), int(types["own"]), _numbers(types["after"]))
    return Inputs(unnumbered, filler, sharing, types)


def _is_id(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _numbers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
