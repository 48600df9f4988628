"""What is promised under partitions, and whether a run kept it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.partitions.service import BUDGET_S

if TYPE_CHECKING:
    from tests.partitions.run import Made

# Beyond the budget, on a machine with other work: an answer that is on its way, a connection that is opened.
SLACK_S = 3.0
# From the end of a cut. Sentinels let eight seconds pass before they make a replica of a master that comes
# back.
READY_S = 20.0
# How long before a cut a write may have been acknowledged and not yet be at the replica, and how long after
# it a master may go on that the others have replaced.
LAG_S, DEMOTED_S = 1.0, 15.0


@dataclass(frozen=True, slots=True)
class Promise:
    """`broken` has a sentence for each case in which it was not kept; `measured` says how closely it was."""

    name: str
    measured: str
    broken: Sequence[str]


def promises(made: Made) -> list[Promise]:
    """In the order of the report."""
    asked = made.record.asked
    slowest = max((one.ended - one.began for one in asked), default=0.0)
    late = [one for one in asked if one.ended - one.began > BUDGET_S + SLACK_S]
    faults = made.record.history.faults(BUDGET_S + SLACK_S)
    slow = [seconds for seconds in made.ready_s if seconds > READY_S]
    return [
        Promise(
            "no wrong answer, no error but 429, 503 and 504", f"{len(asked)} requests", made.record.wrong
        ),
        Promise(
            "every answer has a run of the same text that fits",
            f"{len(made.record.history.calls)} texts",
            [fault for fault in faults if " took " not in fault],
        ),
        Promise(
            f"nothing takes longer than its budget of {BUDGET_S:g} s and {SLACK_S:g} s",
            f"slowest {slowest:.1f} s",
            [f"a request took {one.ended - one.began:.1f} s" for one in late],
        ),
        Promise(
            f"ready again within {READY_S:g} s of the end of a cut",
            f"p50 {quantile(made.ready_s, 0.5):.1f} s, p99 {quantile(made.ready_s, 0.99):.1f} s, "
            f"slowest {max(made.ready_s, default=0):.1f} s",
            [f"a cut was over for {seconds:.1f} s before the service was ready" for seconds in slow],
        ),
        _jobs(made),
        Promise(
            "no process ends, and nothing is left in the queue",
            "at the end",
            made.broken,
        ),
    ]


def _jobs(made: Made) -> Promise:
    """A job is lost only if a failover took its acknowledged writes back."""
    broken = [f"{job.path} is {job.fate}" for job in made.jobs if job.fate not in ("finished", "lost")]
    broken += [
        f"{job.path}, accepted at {job.accepted:.1f}, is lost without a failover"
        for job in made.jobs
        if job.fate == "lost" and not _near_a_failover(made, job.accepted)
    ]
    lost = sum(job.fate == "lost" for job in made.jobs)
    return Promise(
        "jobs end with the right results, but those accepted just before a failover or by a replaced master",
        f"{len(made.jobs)} accepted, {lost} lost",
        broken,
    )


def _near_a_failover(made: Made, at: float) -> bool:
    """Whether this was so late that a promoted replica may not know it."""
    spans = [
        (began - LAG_S, healed + DEMOTED_S)
        for began, healed, _ in made.cuts
        if any(began <= promoted <= healed + DEMOTED_S for promoted, _ in made.promoted)
    ]
    spans += [(begin - LAG_S, end + LAG_S) for begin, end, _ in made.twice]
    return any(begin <= at <= end for begin, end in spans)


def waited_through(made: Made) -> tuple[int, int]:
    """Requests for new texts that were under way when a replica was promoted, and how many got an answer."""
    under_way = [
        one
        for one in made.record.asked
        if not one.known and any(one.began < at < one.ended for at, _ in made.promoted)
    ]
    return len(under_way), sum(one.status == 200 for one in under_way)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
