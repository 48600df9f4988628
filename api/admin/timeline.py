"""The timeline of a request, from what the API process and the workers remember. No Redis, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

Facts = Mapping[str, Any]
Step = dict[str, Any]

# The same text may have been in an earlier batch, for another request. Clocks of machines differ by less.
NEAR_MS = 10_000
# A text that has waited for longer than its request was queued by another one; both times are rounded.
ROUNDED_MS = 5.0


def timeline(facts: Facts, batches: Sequence[Facts]) -> list[Step]:
    """The steps of a request in order, `at_ms` after it was received.

    `batches` are what workers remember of its texts: one for each batch and text. A batch that no worker
    remembers has no `worker`, and only the numbers that came with the results.
    """
    steps: list[Step] = [{"step": "received", "at_ms": 0.0, "texts": facts["texts"]}]
    if facts["local"] or facts["shared"] or facts["asked"]:
        at_ms = facts["asked_ms"] or facts["ms"]
        steps.append(
            {"step": "cache", "at_ms": at_ms, "in_process": facts["local"], "shared": facts["shared"]}
        )
    if facts["asked"]:
        steps.append({"step": "queued", "at_ms": facts["asked_ms"], "texts": facts["asked"]})
    near = [batch for batch in batches if _near(facts, batch)]
    remembered = {batch["id"] for batch in near}
    steps += _worker_steps(facts, near)
    steps += [_unknown_batch(facts, run) for run in facts["runs"] if run["entry"] not in remembered]
    steps.sort(key=lambda step: float(step["at_ms"]))
    answered = {"step": "answered", "at_ms": facts["ms"], "status": facts["status"], "code": facts["code"]}
    return [*steps, answered]


def _near(facts: Facts, batch: Facts) -> bool:
    received_ms = datetime.fromisoformat(facts["received_at"]).timestamp() * 1000
    after_ms: float = batch["at_ms"] - received_ms
    spent_ms: float = facts["ms"]
    return -NEAR_MS <= after_ms <= spent_ms + NEAR_MS


def _worker_steps(facts: Facts, batches: Iterable[Facts]) -> Iterator[Step]:
    """Two steps for each batch that a worker remembers: the claim of its texts, and its run."""
    texts = {run["entry"]: run["texts"] for run in facts["runs"]}
    together: dict[tuple[str, int], list[Facts]] = {}
    for batch in batches:
        together.setdefault((batch["worker"], batch["batch"]), []).append(batch)
    for (worker, number), of_batch in together.items():
        first = of_batch[0]
        own = min(sum(texts.get(batch["id"], 1) for batch in of_batch), first["size"])
        counts = {"worker": worker, "texts": own}
        began_ms, joined = _at(facts, first["queue_ms"], first["model_ms"])
        claimed_ms = min(facts["asked_ms"] + first["waited_ms"], began_ms)
        attempts = max(batch["attempts"] for batch in of_batch)
        yield {"step": "claimed", "at_ms": round(claimed_ms, 3), **counts, "attempts": attempts}
        size = {"batch": number, "size": first["size"], "others": first["size"] - own, "joined": joined}
        known = {name: first[name] for name in ("tokens", "computed_tokens", "reason", "model_ms")}
        yield {"step": "batch", "at_ms": began_ms, **counts, **size, **known}


def _unknown_batch(facts: Facts, run: Facts) -> Step:
    began_ms, joined = _at(facts, run["queue_ms"], run["model_ms"])
    size = {"size": run["size"], "others": run["size"] - run["texts"], "joined": joined}
    return {
        "step": "batch",
        "at_ms": began_ms,
        "worker": None,
        "texts": run["texts"],
        **size,
        "model_ms": run["model_ms"],
    }


def _at(facts: Facts, queue_ms: float, model_ms: float) -> tuple[float, bool]:
    """When a batch began, and whether another request had queued the text before."""
    began = facts["asked_ms"] + queue_ms
    latest = max(facts["ms"] - model_ms, facts["asked_ms"])
    return round(min(began, latest), 3), began > latest + ROUNDED_MS
