"""What all settings share: their source, and the meaning of an empty value."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

IS_EMPTY = "is empty: give it a value, or leave it out for its default"


class EmptyRefused(BaseSettings):
    """Settings whose empty value is the default if that is empty too, and is refused otherwise.

    Compose and Kubernetes set variables for which they have no value.
    """

    model_config = SettingsConfigDict(
        env_prefix="MILLRACE_",
        enable_decoding=False,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    may_be_empty: ClassVar[frozenset[str]] = frozenset()
    """Settings for which an empty value is a choice, and not the default."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_empty(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if not isinstance(value, str) or value.strip() or name in cls.may_be_empty:
            return value
        default = cls.model_fields[name].default
        if default is None or str(default) == "":
            return default
        raise ValueError(IS_EMPTY)
