"""Fields of routes share an adapter only where they are declared alike."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field, ValidationError

from tests.fastapi_patches import adapter


def test_fields_that_are_declared_alike_share_an_adapter() -> None:
    assert adapter(Annotated[int, Field(ge=1)]) is adapter(Annotated[int, Field(ge=1)])


@pytest.mark.parametrize("given", [Annotated[int, Field(ge=2)], Annotated[str, Field(ge=1)]])
def test_others_do_not(given: Any) -> None:
    assert adapter(Annotated[int, Field(ge=1)]).validate_python(1) == 1
    with pytest.raises(ValidationError):
        adapter(given).validate_python(1)


def test_functions_of_one_name_are_different() -> None:
    for number in (1, 2):

        def added(value: int, number: int = number) -> int:
            return value + number

        assert adapter(Annotated[int, AfterValidator(added)]).validate_python(0) == number
