"""Every Redis key of the queue: its name, type, lifetime and writer.

P is `{millrace:2:<name>}`, a hash tag that puts all keys in one slot of a cluster; `{millrace:2:<name>:<k>}`
for shard k of a queue, from the second one on; `{millrace:2:<name>/<model>}` for a model that is not the
first one of a service (decision 0015). 2 is the format of the data (decision 0019). No key is P itself, so
that a cluster in which the slot of a shard is moving refuses all scripts of that shard meanwhile (decision
0014). Times are those of the queue's clock: that of Redis, but limited to 1.2 s from one heartbeat or sweep
to the next (decision 0010).

| key           | type   | what                                       | lifetime      | written by     |
|---------------|--------|--------------------------------------------|---------------|----------------|
| P:q, P:bulk   | list   | waiting ids, one FIFO list per lane        | -             | enqueue, claim |
| P:first       | list   | ids of q that are claimed before the others| 2 min, renewed| enqueue, claim |
| P:solo        | list   | ids of lost or failed runs, to run alone   | -             | claim, sweep   |
| P:inflight    | zset   | id -> end of its lease                     | -             | claim, beat    |
| P:entry:<id>  | string | the request, the waiting APIs, the text    | budget + 60 s | enqueue        |
| P:claims      | hash   | id -> attempts, last worker, its lease     | 2 h, renewed  | claim          |
| P:res:<id>    | string | the result, for polls and later requests   | 60 s          | complete       |
| P:reply:<api> | list   | hints to one API process: ids and results  | 60 s, renewed | complete       |
| P:waiting     | hash   | lane -> waiting cost                       | 1 h, renewed  | enqueue, claim |
| P:idle        | zset   | idle worker -> since when                  | 60 s, renewed | claim, complete|
| P:wake:<id>   | list   | a wake-up for one idle worker              | 60 s, renewed | enqueue        |
| P:workers     | zset   | worker -> when it counts as dead           | 1 h, renewed  | beat           |
| P:worker:<id> | hash   | record of a live worker; its last batches  | 1 h, renewed  | beat           |
| P:alone:<id>  | string | the last id that a worker took from solo   | 2 h           | claim          |
| P:failed:<id> | string | the worker that failed on an entry         | its budget    | complete       |
| P:snapshot    | hash   | the state of the service; texts classified;| 8 d, renewed  | sweep, beat,   |
|               |        | `model:<name>` until when it is listed;    |               | a worker,      |
|               |        | `hold:<client>` what is refused until when |               | the console    |
| P:sweeper     | string | the API process that sweeps                | 1.5 s, renewed| sweep          |
| P:model       | hash   | the current model                          | -             | beat           |
| P:clock       | string | the queue's clock                          | -             | beat, sweep    |
| P:full        | string | memory is short: nothing is cached         | 2 s, renewed  | sweep          |
| P:help        | zset   | shard to help -> since when its head waits | 0.2 s, renewed| lend           |
| P:dead        | list   | dead letters: last 1000 ids of poison      | trimmed       | claim, sweep   |
| P:refused     | zset   | places `ms:id` of the last 10,000 refusals | 7 d, renewed  | claim, complete|
| P:refusals    | hash   | id -> its record, JSON                     | 7 d, renewed  | claim, complete|
| P:refused:<id>| string | a refused text, if the settings keep it    | 7 d           | refused_note   |
| P:pauses      | string | lanes that are paused, how and until when, | 2 d           | pause          |
|               |        | and the number of the last decision of each|               |                |
| P:clients     | hash   | API process -> its clients of a minute     | 60 s, renewed | usage          |
| P:usage:<day> | hash   | key name and count -> number               | usage_days    | usage          |
| P:minutes     | list   | the last day, one JSON line per minute     | 1 d, renewed  | the console    |
| P:answers:<t> | list   | what processes answer the console          | 10 s          | answer         |
| P:revisions   | hash   | published revisions of models              | -             | the console,   |
|               |        |                                            |               | a worker       |
| P:preparing   | hash   | worker that loads a model -> its phase     | 60 s, renewed | a worker       |
| P:apis        | hash   | API process -> the moves it has confirmed  | 60 s, renewed | the console    |
| P:compared:<p>| hash   | counts of a shadow, <p> = model@n:m        | 30 d, renewed | API and jobs   |
| P:compared:   | string | number of the counts that a process added  | 10 min,       | API and jobs   |
|   <p>:<id>    |        | last                                       | renewed       |                |
| P:audit       | list   | what operators did, the last 1000 lines    | 90 d, renewed | the console    |
| P:link:<d>    | string | the operator of a link, <d> its digest     | 10 min        | the console    |
| P:session:<d> | string | the operator of a session, <d> its digest  | 12 h          | the console    |

P:q, P:bulk, P:solo and P:inflight exist only while they are not empty. Every script is idempotent by id, so a
client library may send it twice.
"""

from __future__ import annotations

from functools import lru_cache

from batcher.connection.clients import Redis
from batcher.shards import FORMAT, hash_tag

# How long the snapshot outlives its last change: longer than any hold of a client. common.lua has it too.
SNAPSHOT_S = 8 * 86_400


def prefix(name: str) -> str:
    """P, the prefix of every key of the service `name`."""
    return hash_tag(name)


class Kept:
    """What one service keeps in Redis. `_root` is its key, or begins its keys: P and `below`."""

    below = ""

    def __init__(self, client: Redis, name: str) -> None:
        self._client = client
        self._root = prefix(name) + self.below


# Cached, because there are only a few revisions.
@lru_cache(maxsize=64)
def cache_prefix(name: str, revision: str = "") -> str:
    """The prefix of a service's cached results, or of those of one revision.

    It has no hash tag: the cache may be in another Redis. Beside the shards of a cluster, `name` is the tag
    of the shard.
    """
    return f"millrace:cache:{FORMAT}:{name}:" + (f"{revision}:" if revision else "")


def cache_key(name: str, revision: str, entry: str) -> str:
    """The key of the cached result of one text under one revision."""
    return cache_prefix(name, revision) + entry


def epoch_key(name: str) -> str:
    """The key of the epoch of a cache with its own Redis: a name that each forget ends (see remember.lua)."""
    return f"{cache_prefix(name)}epoch"


def full_key(name: str) -> str:
    """The key that exists while the queue's Redis is too full to cache results there."""
    return f"{prefix(name)}:full"
