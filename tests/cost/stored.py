"""What a service keeps while its routes are measured: of each kind of record far more than usual."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from secrets import token_hex

import httpx
import redis

from api.settings import ApiSettings
from batcher.admin.console import MAX_LINES, MINUTES, AuditLog, MinuteHistory
from batcher.admin.usage import UsageStore
from batcher.core.commands import COUNTS
from batcher.core.holds import MAX_HOLDS, ClientHolds
from batcher.core.keys import prefix
from batcher.publishing.shadow import MAX_LABELS, ComparisonStore
from tests.cost.files import WIDE_TABLES
from tests.service import Service, wait_until

NAME = "default"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
# `make cost` stores three times as much: what reads it costs as many times more, and may.
LARGE = "COST_LARGE" in os.environ
TIMES = 3 if LARGE else 1
TEXTS, LINES, JOBS, ENDED, REFUSED, KEYS = 1000 * TIMES, 500, 200, 1000 * TIMES, 140 * TIMES, 100 * TIMES
# The blank lines between the two lines of a batch.
GAP_BYTES = TIMES * 16 * 1024**2 // 3
# The labels of a comparison: all pairs of them are stored.
LABELS = MAX_LABELS if LARGE else MAX_LABELS // 2
NO_ID = "0" * 32
# A text as long as it may be, of wide characters.
_LONG = "\N{GRINNING FACE}" * 20_000


@dataclass(frozen=True, slots=True)
class Stored:
    """Values of the parameters of paths: first those of large records, last those of small ones."""

    values: Mapping[str, tuple[str, ...]]

    def paths(self, path: str) -> list[str]:
        """A path with each of the values of its parameters."""
        names = _PARAMETER.findall(path)
        most = max([len(self.values[name]) for name in names], default=1)
        return [
            _PARAMETER.sub(lambda found, n=n: (self.values[found[1]] * most)[n], path) for n in range(most)
        ]


def filled(path: str, value: str) -> str:
    """A path with a value for all of its parameters."""
    return _PARAMETER.sub(lambda _: value, path)


def store(service: Service, headers: Mapping[str, str]) -> Stored:
    """Fills the service, which needs a worker. No jobs worker runs afterwards: later jobs stay queued."""
    http = httpx.Client(base_url=service.base_url, headers=headers, timeout=120, trust_env=False)
    with http, service.redis.client() as client:
        _keep_refused(client)
        _keep_facts(client)
        ask(http, headers)
        texts = "".join(f"stored {number}\n" for number in range(TEXTS))
        job = http.post("/jobs?filename=a.txt&keep_input=true", content=texts).raise_for_status().json()["id"]
        file, batch = _start_batch(http, LINES)
        sparse, gap = _start_batch(http, 2, GAP_BYTES)
        jobs = service.start_jobs()
        small = http.post("/jobs?filename=a.txt", content="a").raise_for_status().json()["id"]
        rows = "text,more\na,b\na,b\n"  # those of "blank lines of a table"
        table = http.post("/jobs?filename=a.csv", content=rows).raise_for_status().json()["id"]
        typed = {
            form: http.post(f"/jobs?filename=a.{form}", content=wide(24)).raise_for_status().json()["id"]
            for form, wide in WIDE_TABLES.items()
        }
        batches = [f"/v1/batches/{one}" for one in (batch, gap)]
        found = [*(f"/jobs/{one}" for one in (job, small, table, *typed.values())), *batches]
        ended = ("finished", "completed")
        wait_until(
            lambda: all(http.get(path).json()["status"] in ended for path in found), "jobs to end", 120
        )
        jobs.stop()
        output, between = (http.get(path).json()["output_file_id"] for path in batches)
        _keep_ended(client, small)
        for number in range(JOBS):
            http.post("/jobs?filename=a.txt", content=f"queued {number}").raise_for_status()
        version = http.get("/v2/models/stub").json()["versions"][0]
    return Stored(
        {
            "job_id": (job, table, small),
            "file_id": (output, between, sparse, file),
            "batch_id": (batch,),
            "request_id": ("stored", "known"),
            "model": ("stub",),
            "name": ("stub", "swagger/swagger-ui-bundle.js"),
            "version": (version,),
            "lane": ("bulk",),
            **{form: (one,) for form, one in typed.items()},
        }
    )


def ask(http: httpx.Client, headers: Mapping[str, str]) -> None:
    """Asks for many texts. Its process remembers these requests until others displace them, or it ends."""
    asked = {"text": [f"asked {token_hex(8)}" for _ in range(400)]}
    for name in ("stored", "known"):  # the second time, the cache knows the texts
        http.post("/predict", json=asked, headers={**headers, "x-request-id": name}).raise_for_status()


def _start_batch(http: httpx.Client, count: int, gap: int = 0) -> tuple[str, str]:
    """The ids of a file of so many lines, with as many blank ones between two of them, and of its batch."""
    lines = [
        {
            "custom_id": f"line {number}",
            "method": "POST",
            "url": "/v1/classify",
            "body": {"model": "stub", "input": f"line {number}"},
        }
        for number in range(count)
    ]
    content = ("\n" * (gap + 1)).join(map(json.dumps, lines)).encode()
    sent = http.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", content)})
    file = sent.raise_for_status().json()["id"]
    wanted = {"input_file_id": file, "endpoint": "/v1/classify", "completion_window": "24h"}
    return file, http.post("/v1/batches", json=wanted).raise_for_status().json()["id"]


def _keep_ended(client: redis.Redis, job: str) -> None:
    """Copies of a job that has ended: its record, and its place in each list."""
    (key,) = client.scan_iter(f"*}}:job:{job}", count=10_000)
    record = client.hgetall(key)
    place, pipe = record[b"place"].decode(), client.pipeline()
    names = client.scan_iter("*:jobs*", 10_000, _type="zset")
    scores = {name: score for name in names if (score := client.zscore(name, place)) is not None}
    for number in range(ENDED):
        other = f"{number + 1:032x}"
        moved = place.replace(job, other)
        pipe.hset(key.decode().replace(job, other), mapping={**record, b"place": moved})
        for name, score in scores.items():
            pipe.zadd(name, {moved: score})
    pipe.execute()


def _keep_refused(client: redis.Redis) -> None:
    """Refused texts, as the queue's scripts record them."""
    key, pipe = f"{prefix(NAME)}:refused", client.pipeline()
    for number in range(REFUSED):
        entry = f"{number:064x}"
        record = {
            "id": entry,
            "place": f"{1_700_000_000_000 + number}:{entry}",
            "code": "poison",
            "attempts": 3,
            "workers": " ".join(["worker"] * 3),
            "revision": "a" * 40,
            "lane": "interactive",
        }
        pipe.hset(f"{prefix(NAME)}:refusals", entry, json.dumps(record))
        pipe.zadd(key, {str(record["place"]): 0})
        pipe.set(f"{key}:{entry}", _LONG)
    pipe.execute()


def _keep_facts(client: redis.Redis) -> None:
    """The audit log, the history of a day, the usage and the holds of many keys, and a comparison."""
    audit, minutes = AuditLog(client, NAME), MinuteHistory(client, NAME)
    usage, holds = UsageStore(client, NAME, ApiSettings().usage_days), ClientHolds(client, NAME)
    pipe = client.pipeline()
    for day in usage.kept():
        counts = {f"key {number} {count}": 10**12 for number in range(KEYS) for count in COUNTS}
        pipe.hset(f"{prefix(NAME)}:usage:{day}", mapping=counts)
    pipe.execute()
    for number in range(MAX_HOLDS):
        holds.set(f"key:{number:0100}", "uncached", 86_400)
    labels = [f"label {number}" for number in range(LABELS)]
    matrix = {f"labels:{json.dumps(pair)}": 10**9 for pair in product(labels, labels)}
    ComparisonStore(client, NAME).add(("", 0, 0), "none", 0, matrix)
    for _ in range(MAX_LINES):
        audit.add({"at": "2026-01-01T00:00:00Z", "operator": "ops", "action": "forget", "keys": 1})
    rates = dict.fromkeys(("answered", "hits", "refused", "shed", "worked", "p50_ms", "p99_ms"), 123456.7)
    for number in range(MINUTES):
        minutes.add(json.dumps({"at_s": 60 * number, **rates, "workers": 1, "waiting": 9}).encode())
