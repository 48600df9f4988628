"""Faults that the search must find: one edit of a script each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from batcher.connection import scripts

PACKAGES = {"queue": scripts.QUEUE, "jobs": "batcher.jobs"}


class Fault(NamedTuple):
    """An edit of one script of the queue or of jobs, or of what all of them share (`common`)."""

    name: str
    script: str
    correct: str
    wrong: str
    machine: str = "queue"


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The scripts have this fault meanwhile. Raises LookupError if the script has changed."""
    correct_source = scripts.lua_source
    correct = correct_source(fault.script, PACKAGES[fault.machine])
    if correct.count(fault.correct) != 1:
        raise LookupError(f"{fault.name}: its place is not found once")

    def source(name: str, package: str = scripts.QUEUE) -> str:
        text = correct_source(name, package)
        here = (name, package) == (fault.script, PACKAGES[fault.machine])
        return text.replace(fault.correct, fault.wrong) if here else text

    with patch.object(scripts, "lua_source", source):
        _forget_sources()
        try:
            yield
        finally:
            _forget_sources()


def _forget_sources() -> None:
    scripts.script_source.cache_clear()
    scripts.call.cache_clear()


PLANTED = (
    Fault(
        "finding 04: an old failure answers a new caller",
        "enqueue",
        "if string.sub(result, -1) == '\\n' then return string.find(result, '\"poison\"', 1, true) end",
        "if string.sub(result, -1) == '\\n' then return true end",
    ),
    Fault(
        "finding 06a: a kept result of a model that has left answers",
        "enqueue",
        "return revision and is_serving(revision)",
        "return revision",
    ),
    Fault(
        "a kept result of a model that has left all other shards answers",
        "enqueue",
        "local current = published == '' or published == revision",
        "local current = true",
    ),
    Fault(
        "a release charges the attempt",
        "release",
        "claim_line(attempts - 1, worker",
        "claim_line(attempts, worker",
    ),
    Fault(
        "finding 41: a late failure replaces a result",
        "complete",
        "if entry then redis.call('SET', result_key(id)",
        "if true then redis.call('SET', result_key(id)",
    ),
    Fault("a cancel keeps the cost", "cancel", "      subtract_unclaimed(id, lane, cost)\n", ""),
    Fault(
        "a claim leaves its ids in the list",
        "claim",
        "    redis.call('LTRIM', list, read, '-1')\n    empty[list] = read == #ids and #ids < wanted\n",
        "    return\n",
    ),
    Fault(
        "a claim ignores leases",
        "claim",
        "if not deadline or in_flight or seen[id] or claim and solo == 0 then",
        "if not deadline or seen[id] then",
    ),
    Fault(
        "finding 38: a suspect is claimed from its second place too",
        "claim",
        " or seen[id] or claim and solo == 0 then",
        " or seen[id] then",
    ),
    Fault(
        "a claim takes what has expired",
        "claim",
        "  if number(deadline) <= now then\n    expire(id)",
        "  if false then\n    expire(id)",
    ),
    Fault(
        "a join forgets the requests that wait already",
        "enqueue",
        "then names = names .. ' ' .. api end",
        "then names = api end",
    ),
    Fault(
        "a live worker counts as dead",
        "common",
        "local last_heartbeat = tonumber",
        "local last_heartbeat = false and tonumber",
    ),
    Fault(
        "a suspect runs with others",
        "common",
        "    redis.call('RPUSH', SOLO, id)\n    return true",
        "    redis.call('RPUSH', Q, id)\n    return true",
    ),
    Fault(
        "a hint goes to one process only",
        "complete",
        "    hints[names] = parts\n",
        "    hints = { [names] = parts }\n",
    ),
    Fault("a list of hints has no end", "common", "  redis.call('PEXPIRE', list, HINT_MS)\n", ""),
    Fault(
        "a failure of one worker is final",
        "complete",
        "if (first and first ~= worker) or now",
        "if true or now",
    ),
    Fault(
        "what an ended lease held is dropped",
        "common",
        "    redis.call('RPUSH', SOLO, id)\n    return true",
        "    return true",
    ),
    Fault("a claim wakes no worker for what it leaves", "claim", "if left > 0 then wake_workers(1) end", ""),
    Fault(
        "a heartbeat does not extend leases", "beat", "redis.call('ZADD', INFLIGHT, now + lease, ARGV[i])", ""
    ),
    Fault(
        "a joiner does not move to the interactive lane's cost",
        "enqueue",
        "      add_waiting(lane, cost)\n",
        "",
    ),
    Fault(
        "a heartbeat is refused while memory is full",
        "beat",
        "even_when_full()\nnow = queue_clock(true)\nlocal mine",
        "now = queue_clock(true)\nlocal mine",
    ),
    Fault(
        "finding 03: another job's results",
        "job_append",
        "if fields[2] ~= token then return 'superseded' end\n",
        "",
        "jobs",
    ),
    Fault(
        "an older attempt ends a job",
        "job_end",
        "if token ~= '' and token ~= fields[2] then return 'superseded' end\n",
        "",
        "jobs",
    ),
    Fault(
        "results that are sent twice count twice",
        "job_append",
        "held == first then",
        "held >= first then",
        "jobs",
    ),
    Fault(
        "a start that is sent twice is two attempts",
        "common",
        "if is_open(status) and fields[7] ~= token then",
        "if is_open(status) then",
        "jobs",
    ),
    Fault("a deleted job holds its bytes", "common", "  account(place, '', 0)\n", "", "jobs"),
    Fault(
        "results of an evicted job reach a later one",
        "job_create",
        "redis.call('UNLINK', job .. ':output', job .. ':models')",
        "",
        "jobs",
    ),
    Fault("a second upload replaces a job", "job_create", "if known[1] or outcome", "if outcome", "jobs"),
)
