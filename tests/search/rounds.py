"""Runs random histories of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = 30


def search(
    machine: type[RuleBasedStateMachine],
    clients: Sequence[redis.Redis],
    histories: int,
    *,
    seed: int | None = None,
    shrink: bool = True,
) -> None:
    """Raises the failure of the first history that breaks a promise, at its shortest.

    `clients`: the servers to compare, which the machine has as a field of that name.
    """
    chosen: Any = type(machine.__name__, (machine,), {"clients": tuple(clients)})
    if seed is not None:
        chosen = hypothesis.seed(seed)(chosen)
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    run_state_machine_as_test(
        chosen,
        settings=settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            phases=phases,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
