"""What must hold in every situation. docs/guarantees.md lists the same promises, by the same names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tests.crossings.record import LATER, PHASES, Exchange, Record
from tests.crossings.routes import JOB_S, MODERATION, ONE_REVISION, REQUEST_S, WAIT_FOR_JOBS
from tests.crossings.services import QUICK, Crossed, cascade_members
from tests.signing import Checker, Said

GUARANTEES = Path(__file__).parents[2] / "docs/guarantees.md"
# The budget of the Python client, and what a machine with other work adds.
SLACK_S = REQUEST_S + 15


class Broken(NamedTuple):
    """A promise that was not kept, and how."""

    promise: str
    how: str


Sentences = Iterator[str]
CUTS = ("ConnectError", "RemoteProtocolError", "ReadError", "WriteError")


def answers_are_right(record: Record, service: Crossed) -> Sentences:
    # Requests of one phase overlap: what one of them computed, another of the same client may have again.
    for one in sorted(_all(record), key=lambda one: (PHASES.index(one.phase), one.hit)):
        if one.said is not None:
            wrong = _wrong(one, one.said, service.checker)
            if wrong:
                said = one.said
                yield f"{one}: {', '.join(wrong)}: {said.names} {said.rows[:2]!r} of {said.texts[:2]!r}"
    yield from record.wrong


def _wrong(one: Exchange, said: Said, checker: Checker) -> list[str]:
    if one.model == QUICK:
        return _wrong_in_cascade(said, checker)
    # The native routes name the revisions of all texts.
    of_several = {"mixed"} if one.route not in ONE_REVISION else set()
    return [wrong for wrong in checker.wrong(said) if wrong not in of_several]


def _wrong_in_cascade(said: Said, checker: Checker) -> list[str]:
    """Each text is answered by the first model if that is sure, otherwise by the second."""
    first = next(one for one in checker.revisions if one.model == "stub")
    if len(said.rows) != len(said.texts):
        return ["count"]
    sure = cascade_members(said.texts, first)
    wrong: list[str] = []
    for model, by_first in (("stub", True), ("large", False)):
        at = [number for number, one in enumerate(sure) if one == by_first]
        own = replace(
            said, texts=[said.texts[n] for n in at], rows=[said.rows[n] for n in at], names=(), model=model
        )
        wrong += checker.wrong(own)
    return wrong


def requests_end(record: Record, service: Crossed) -> Sentences:
    for one in _all(record):
        if not one.status and not (one.cuts and one.problem.startswith(CUTS)):
            yield f"{one} had no answer"
        elif one.seconds > (JOB_S if one.route in WAIT_FOR_JOBS else SLACK_S):
            yield f"{one} took {one.seconds:.0f} s"


def refusals_are_documented(record: Record, service: Crossed) -> Sentences:
    for one in _all(record):
        if one.status in (0, 200, 202) or one.status in one.allowed:
            continue
        if one.phase == "during" and one.status in LATER and not one.problem:
            continue
        yield f"{one} was refused"


def refusals_say_when(record: Record, service: Crossed) -> Sentences:
    for one in _all(record):
        if one.status in LATER and not one.retry_after:
            yield f"{one} lacks Retry-After"


def refusals_do_nothing(record: Record, service: Crossed) -> Sentences:
    yield from record.done


def accepted_jobs_end(record: Record, service: Crossed) -> Sentences:
    for one in record.exchanges:
        if one.job and one.job_state != "finished":
            yield f"{one} was accepted and is {one.job_state or 'not read'}"
        elif one.job and one.said is None:
            yield f"{one} has no results"
    yield from record.kept


def decisions_hold(record: Record, service: Crossed) -> Sentences:
    yield from record.decided


def forgotten_is_gone(record: Record, service: Crossed) -> Sentences:
    yield from record.left


def no_part_looks_whole(record: Record, service: Crossed) -> Sentences:
    yield from record.cut
    for one in _all(record):
        if one.status in (200, 202) and one.problem:
            yield str(one)


def twins_agree(record: Record, service: Crossed) -> Sentences:
    """Answers of one revision that name all labels. Those of several are compared with the revisions only."""
    apart = 2 * max(one.tolerance for one in service.checker.revisions)
    known: dict[tuple[str, str], tuple[dict[str, float], Exchange]] = {}
    for one in record.exchanges:
        if one.said is None or one.route in MODERATION or len(one.said.names) != 1:
            continue
        for text, row in zip(one.said.texts, one.said.rows, strict=False):
            if row.labels is None or row.order == "none":
                continue
            scores = dict(zip(row.labels, row.scores, strict=True))
            others, twin = known.setdefault((one.said.names[0], text), (scores, one))
            if any(abs(scores.get(label, -1.0) - score) > apart for label, score in others.items()):
                yield f"{one} has {scores} for {text!r}, and {twin} has {others}"


def others_notice_nothing(record: Record, service: Crossed) -> Sentences:
    for one in record.others:
        if one.status != 200 and not one.cuts:
            yield f"{one}, which concerns another client"


def processes_live(record: Record, service: Crossed) -> Sentences:
    yield from record.ended


def _all(record: Record) -> list[Exchange]:
    return [*record.exchanges, *record.others]


PROMISES: dict[str, Callable[[Record, Crossed], Sentences]] = {
    name.__name__.replace("_", " "): name
    for name in (
        answers_are_right,
        twins_agree,
        no_part_looks_whole,
        requests_end,
        refusals_are_documented,
        refusals_say_when,
        refusals_do_nothing,
        accepted_jobs_end,
        decisions_hold,
        forgotten_is_gone,
        others_notice_nothing,
        processes_live,
    )
}


def documented() -> list[str]:
    """The names of the promises in docs/guarantees.md."""
    part = GUARANTEES.read_text().partition("## Promises")[2].partition("\n## ")[0]
    return [name.lower() for name in re.findall(r"^- \*\*(.+?)\.\*\* ", part, re.MULTILINE)]


def broken(record: Record, service: Crossed) -> list[Broken]:
    """Every promise in docs/guarantees.md that this situation did not keep."""
    return [Broken(name, how) for name in documented() for how in PROMISES[name](record, service)]
