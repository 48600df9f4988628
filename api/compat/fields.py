"""The fields of requests: those that a dialect reads, refuses by name, or ignores and says so.

A request is described by a model whose fields are all that the dialect knows. `Unsupported` ones are refused
unless their value asks for what happens anyway. `Ignored` ones, and unknown ones of an open object, are named
in the header X-Ignored. An unknown field of a closed object is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import isclass
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticOmit, core_schema

from api.asgi.ignored import MAX_NAME, MODEL_NAMES, plain

# Errors of these kinds name a field that is not supported, so they come before others of the same body.
UNSUPPORTED, UNKNOWN = "unsupported", "unknown_field"


def _integral(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


# With a strict field, integers as JSON has them: 5.0 is one, and neither "5" nor true is.
INTEGRAL = BeforeValidator(_integral)
Integer = Annotated[int, Field(strict=True), INTEGRAL]
Count = Annotated[int, Field(strict=True, ge=0), INTEGRAL]
Positive = Annotated[int, Field(strict=True, ge=1), INTEGRAL]


class Fields(BaseModel):
    """An object of a request. Fields that it does not declare are ignored, and named in X-Ignored.

    Those of its objects of parameters are refused: beside or around them, they would have no effect.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _refuse_unknown(self) -> Self:
        for name, value in (self.__pydantic_extra__ or {}).items():
            if hint := self._instead(name, value):
                message = f'unknown field "{name[:MAX_NAME]}"; {hint}'
                raise PydanticCustomError(UNKNOWN, "{message}", {"message": message})
        return self

    def _instead(self, name: str, value: Any) -> str:
        """What to send in place of an unknown field; empty if it is ignored."""
        inside = _parameters(type(self))
        names = (name, *value) if isinstance(value, dict) else (name,)
        found = next((one for one in names if plain(one) in inside), None)
        if found is None:
            objects = {plain(one): one for one in inside.values()} if isinstance(value, dict) else {}
            meant = difflib.get_close_matches(plain(name[:MAX_NAME]), objects, 1)
            return f"did you mean {objects[meant[0]]}?" if meant else ""
        return f"send {'it' if found == name else found} in {inside[plain(found)]}"


class ClosedFields(Fields):
    """An object of parameters, or of a dialect that refuses unknown fields."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    def _instead(self, name: str, value: Any) -> str:
        fields = type(self).model_fields
        close = difflib.get_close_matches(name[:MAX_NAME].lower().replace("-", "_"), fields, n=1, cutoff=0.5)
        known = [one for one, about in fields.items() if not any(map(_is_undescribed, about.metadata))]
        return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


@cache
def _parameters(model: type[Fields]) -> Mapping[str, str]:
    """The `plain` names in the objects of parameters of an object, and in which field they belong."""
    return {
        plain(inner): name
        for name, about in model.model_fields.items()
        for kind in _models_in(about.annotation)
        if issubclass(kind, ClosedFields)
        for inner in kind.model_fields
    }


class _Undescribed:
    """A field that the OpenAPI document leaves out."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        raise PydanticOmit


def _is_undescribed(about: object) -> bool:
    return isinstance(about, _Undescribed)


@dataclass(frozen=True)
class Unsupported(_Undescribed):
    """A known field that is refused, unless it is null or one of the `harmless` values."""

    why: str
    harmless: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: Any) -> Any:
        if value is None or any(type(value) is type(one) and value == one for one in self.harmless):
            return value
        raise PydanticCustomError(UNSUPPORTED, "{why}", {"why": self.why})


_IGNORED = _Undescribed()
# A known field without any effect here.
Ignored = Annotated[Any, _IGNORED]


def ignored_in(found: BaseModel, place: str = "") -> Iterator[str]:
    """The places of fields in a request that have no effect: "options.wait_for_model"."""
    for name in found.__pydantic_extra__ or ():
        yield place + name
    for name, about in type(found).model_fields.items():
        value = getattr(found, name)
        if _IGNORED in about.metadata:
            if value is not None:
                yield place + name
        elif isinstance(value, BaseModel):
            yield from ignored_in(value, f"{place}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            for one in value:
                yield from ignored_in(one, f"{place}{name}.")


def models_in(found: BaseModel) -> list[Any]:
    """What a request calls its model in fields that its dialect does not have."""
    others = (found.__pydantic_extra__ or {}).items()
    return [value for name, value in others if value is not None and plain(name) in MODEL_NAMES]


def places(model: type[BaseModel], within: str = "") -> Iterator[tuple[str, str]]:
    """The name of each field of a request and its place: ("top_k", "parameters.top_k")."""
    for name, about in model.model_fields.items():
        yield name, within + name
        for inner in _models_in(about.annotation):
            yield from places(inner, f"{within}{name}.")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
