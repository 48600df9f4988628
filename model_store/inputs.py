"""How texts become the arrays that one model is given. Its manifest records this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

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


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of a model beside the ids of a text.

    Tokens with the id `unnumbered` have position 0, and the others are counted from 1; None: all are counted
    from 0. `filler` is the id of padding, and `sharing` says which texts may be padded to the same length.
    `token_types` are None for a model that gets none, or that runs in packed rows.
    """

    unnumbered: Annotated[int, Field(ge=0)] | None = None
    filler: int = 0
    sharing: Sharing = "any"
    token_types: TokenTypes | None = None


PLAIN = Inputs()
