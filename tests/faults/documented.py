"""Every documented operation under schemathesis, whose import takes long: only in processes that need it."""

from __future__ import annotations

from pathlib import Path

import schemathesis
from hypothesis import settings
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.config import SchemathesisConfig
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source
from schemathesis.schemas import APIOperation

from tests.faults.test_hostile_input import endless

config = SchemathesisConfig.from_path(Path(__file__).parents[2] / "schemathesis.toml")
schema = schemathesis.openapi.from_asgi("/openapi.json", endless, config=config)
schema.config.generation.modes = list(GenerationMode)
load_all_checks()


def operation(label: str) -> APIOperation:
    """That of a label such as `POST /predict`."""
    method, path = label.split()
    return schema[path][method]


def keeps_its_word(label: str, most: settings) -> None:
    """Tries an operation, with all checks."""

    @most
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate()

    feedback = FeedbackSources(constants_value_source=make_constants_value_source(schema))
    build_operation_test(
        config=schema.config,
        operation=operation(label),
        test_func=check,
        given_kwargs={},
        feedback=feedback,
    )()
