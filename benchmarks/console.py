"""Pages of the operator's console over long lists: 10,000 refused texts and 100,000 jobs.

python -m benchmarks.console [--refused 10000] [--jobs 100000] [--rounds 20]

For each page: the time from the request to the whole answer, over loopback, and how many commands Redis ran
meanwhile, those within scripts and of heartbeats included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from hashlib import sha256
from statistics import median
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import redis

from benchmarks import report
from benchmarks.service import Service, service

KEY = "the-operator-of-the-benchmark"
P, JOBS = "{millrace:2:default}", "{millrace-jobs:default}"
FILE = {"format": "csv", "delimiter": ",", "encoding": "utf-8", "gzipped": False, "column": "text"}
FILE |= {"description": "CSV"}
FIRST_MS = 1_700_000_000_000
SLICE = 2000
MOST_MS = 200.0
# One page examines this many jobs, each read by a script and by the API.
MOST_COMMANDS = 4000
PAGES: dict[str, dict[str, object]] = {
    "refused": {},
    "refused, 1000 a page": {"limit": 1000},
    "refused by client": {"client": "key:c1", "limit": 1000},
    "refused by worker, none": {"worker": "unknown"},
    "refused by revision and time": {"revision": "rev1", "until_ms": FIRST_MS + 5000},
    "jobs": {},
    "jobs, 500 a page": {"limit": 500},
    "jobs by state": {"status": "finished", "limit": 500},
    "jobs by client": {"client": "key:c1", "limit": 500},
    "jobs by name, none": {"search": "no such name"},
    "jobs by state, name and client": {"status": "finished", "search": "reviews", "client": "key:c2"},
}


def refuse(client: redis.Redis, count: int) -> None:
    """Records as the queue's scripts write them."""
    for first in range(0, count, SLICE):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + SLICE, count)):
            entry = f"{number:064x}"
            place = f"{FIRST_MS + number}:{entry}"
            record = {"id": entry, "place": place, "code": "inference_failed", "attempts": 2}
            record |= {"lane": "interactive", "workers": f"w{number % 3} w9", "revision": f"rev{number % 2}"}
            pipe.zadd(f"{P}:refused", {place: 0})
            pipe.hset(f"{P}:refusals", entry, json.dumps(record | {"client": f"key:c{number % 7}"}))
        pipe.execute()


def create_jobs(running: Service, client: redis.Redis, count: int) -> None:
    """Copies of one job. No jobs worker runs."""
    body = json.dumps({"text": ["one"]}).encode()
    asked = Request(f"http://127.0.0.1:{running.port}/jobs", body, {"Content-Type": "application/json"})
    with urlopen(asked) as answer:
        job_id = json.load(answer)["id"]
    raw: Any = client.hgetall(f"{JOBS}:job:{job_id}")
    kept: dict[Any, Any] = {name.decode(): value for name, value in raw.items()}
    ends = time.time() * 1000 + 86_400_000
    for first in range(0, count, SLICE):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + SLICE, count)):
            one = f"{number:032x}"
            place = f"{(FIRST_MS + number) * 1000:016d}:{one}"
            named = json.dumps({**FILE, "name": f"reviews {number}.csv"})
            facts: dict[Any, Any] = {
                "place": place,
                "owner": f"key:c{number % 7}",
                "status": "finished",
                "file": named,
            }
            pipe.hset(f"{JOBS}:job:{one}", mapping=kept | facts)
            pipe.zadd(f"{JOBS}:jobs", {place: 0})
            pipe.zadd(f"{JOBS}:jobs:finished", {place: 0})
            pipe.zadd(f"{JOBS}:jobs:ends", {place: ends})
        pipe.execute()


def commands(client: redis.Redis) -> int:
    """How many commands the server has run, those of scripts included."""
    return sum(stats["calls"] for stats in client.info("commandstats").values())


def measured(
    running: Service, client: redis.Redis, rounds: int
) -> Iterator[tuple[str, int, float, float, float]]:
    """For each page: its items, median and longest ms, and the median of commands."""
    for page, query in PAGES.items():
        kind = page.split(" ")[0].strip(",")
        url = f"http://127.0.0.1:{running.port}/admin/{kind}?{urlencode(query)}"
        spent, ran, items = list[float](), list[int](), 0
        for number in range(rounds + 1):
            before, began = commands(client), time.perf_counter()
            with urlopen(Request(url, headers={"Authorization": f"Bearer {KEY}"})) as answer:
                items = len(json.loads(answer.read())[kind])
            if number:  # the first connects
                spent.append((time.perf_counter() - began) * 1000)
                ran.append(commands(client) - before - 1)
        yield page, items, median(spent), max(spent), median(ran)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--refused", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    digest = sha256(KEY.encode()).hexdigest()
    with service("stub", admin_keys=f"ops:{digest}") as running, running.redis() as client:
        refuse(client, args.refused)
        create_jobs(running, client, args.jobs)
        found = list(measured(running, client, args.rounds))
    report.table(
        ["page", "items", "median ms", "longest ms", "commands"],
        [[page, items, f"{mid:.1f}", f"{most:.1f}", f"{ran:.0f}"] for page, items, mid, most, ran in found],
    )
    slowest, most_ran = max(row[3] for row in found), max(row[4] for row in found)
    report.goal("ms of the slowest page", slowest, MOST_MS, at_most=True)
    report.goal("Redis commands of a page", most_ran, MOST_COMMANDS, at_most=True)
    columns = ("page", "items", "median_ms", "longest_ms", "commands")
    report.finish("console", {"pages": [dict(zip(columns, row, strict=True)) for row in found]})


if __name__ == "__main__":
    main()
