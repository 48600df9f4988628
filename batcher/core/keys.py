"""Every Redis key of the queue: its name, type, lifetime and writer.

P is `{millrace:<name>}`: one hash tag, so one slot of a cluster. Moments are those of the queue's clock: that
of Redis, but it advances by 1.2 s at most from one beat or sweep to the next (decision 0010).

| key           | type   | what                                       | lifetime      | written by     |
|---------------|--------|--------------------------------------------|---------------|----------------|
| P:q, P:bulk   | list   | ids waiting, one list a lane, FIFO         | -             | enqueue, claim |
| P:first       | list   | ids of q that go before the others of it   | 2 min, renewed| enqueue, claim |
| P:solo        | list   | ids recovered from dead workers, run alone | -             | claim, sweep   |
| P:inflight    | zset   | id -> end of its lease                     | -             | claim, beat    |
| P:entry:<id>  | string | what was asked, who waits, the text        | budget + 60 s | enqueue        |
| P:claims      | hash   | id -> attempts, last worker, its lease     | 2 h, renewed  | claim          |
| P:res:<id>    | string | the result: what the API waits on          | 60 s          | complete       |
| P:reply:<api> | list   | hints to one API process: ids and results  | 60 s, renewed | complete       |
| P:waiting     | hash   | lane -> waiting cost                       | 1 h, renewed  | enqueue, claim |
| P:bell        | stream | rings for idle workers when work came      | 60 s, renewed | enqueue        |
| P:workers     | zset   | worker -> when it counts as ended          | 1 h, renewed  | beat           |
| P:worker:<id> | hash   | what a live worker says; its last batches  | 1 h, renewed  | beat           |
| P:alone:<id>  | string | what a worker has taken from solo last     | 2 h           | claim          |
| P:model       | hash   | the current model                          | -             | beat           |
| P:clock       | string | the queue's clock                          | -             | beat, sweep    |
| P:full        | string | memory is short: nothing is remembered     | 2 s, renewed  | sweep          |
| P:dead        | list   | last 1000 ids that ended workers           | trimmed       | claim, sweep   |

P:q, P:bulk, P:solo and P:inflight exist only while they hold something. Every script is idempotent by id, so
a client library may send it twice.
"""

from __future__ import annotations

import random


def prefix(name: str) -> str:
    """P: what every key of the service `name` starts with."""
    return f"{{millrace:{name}}}"


def cache_prefix(name: str) -> str:
    """What every long-lived result of a service starts with. No hash tag: it may live in another Redis."""
    return f"millrace:cache:{name}:"


def cache_key(name: str, revision: str, entry: str) -> str:
    """The long-lived result of one text under one revision."""
    return f"{cache_prefix(name)}{revision}:{entry}"


def full_key(name: str) -> str:
    """Exists while the queue's Redis is so full that nothing is to be remembered there."""
    return f"{prefix(name)}:full"


def spread(lifetime_ms: float) -> int:
    """A lifetime within 10 % of this one: what is remembered together must not end together."""
    return int(lifetime_ms * random.uniform(0.9, 1.1))
