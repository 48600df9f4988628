"""A crowd of clients, three times too large for the service: what naive loops lose, and what clients do not.

python -m benchmarks.crowd [--requests 5] [--seconds 6] [--batch-ms 10] [--token-ms 0.2]

The service lets a request wait for two seconds. So many clients begin at the same time that one request of
each is three times what the worker computes in that time. A naive client sends its requests one after the
other, and goes on to the next if one is refused. The others use `millrace_client.AsyncClient` with default
options.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import httpx
from millrace_client import AsyncClient, MillraceError, Prediction

from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import service
from benchmarks.texts import stream

OVERLOAD = 3.0
BUDGET_S = 2.0
REQUEST_TEXTS = 32
# What is refused or late is lost to a naive loop; and the time of the crowd by that of the worker alone.
NAIVE_LOST, SLOWER = 0.5, 1.3


async def naive(url: str, texts: list[str]) -> Counter[str]:
    """Sends every request once. Counts texts by their outcome."""
    outcomes: Counter[str] = Counter()
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for at in range(0, len(texts), REQUEST_TEXTS):
            part = texts[at : at + REQUEST_TEXTS]
            answer = await http.post("/predict", json={"text": part})
            outcomes["answered" if answer.status_code == 200 else str(answer.status_code)] += len(part)
    return outcomes


async def patient(url: str, texts: list[str]) -> Counter[str]:
    """Classifies all texts by one call of the client. Counts texts by their outcome."""
    outcomes: Counter[str] = Counter()
    async with AsyncClient(url) as client:
        try:
            async for result in client.classify(texts, errors="return"):
                outcomes["answered" if isinstance(result, Prediction) else result.code] += 1
        except MillraceError as error:
            outcomes[error.code] += len(texts) - outcomes.total()
    return outcomes


async def crowd(kind: Any, url: str, clients: int, each: int, texts: Iterator[str]) -> dict[str, Any]:
    """Runs `clients` clients of a kind at once, with `each` texts for each."""
    shares = [list(islice(texts, each)) for _ in range(clients)]
    began = time.perf_counter()
    outcomes = await asyncio.gather(*(kind(url, share) for share in shares))
    seconds = time.perf_counter() - began
    found: Counter[str] = sum(outcomes, Counter())
    return {
        "seconds": seconds,
        "answered": found.pop("answered", 0),
        "lost": found.total(),
        "by": dict(found),
    }


def measure(given: argparse.Namespace, texts: Iterator[str]) -> dict[str, Any]:
    """The goodput of the service, then both crowds.

    Each crowd has a service to itself, because a service expects what it has refused to return.
    """
    settings: dict[str, Any] = {"default_budget_s": BUDGET_S, "max_budget_s": BUDGET_S}
    settings |= {"stub_batch_ms": given.batch_ms, "stub_token_ms": given.token_ms}
    found: dict[str, Any] = {}
    for kind in (patient, naive):
        with service("stub", **settings) as running:
            if not found:
                report.progress("goodput, by a closed loop of 8 users")
                load = closed_loop(running.port, 8, given.seconds, lambda: list(islice(texts, REQUEST_TEXTS)))
                goodput = asyncio.run(load).texts_per_s
                clients = round(OVERLOAD * BUDGET_S * goodput / REQUEST_TEXTS)
                each = given.requests * REQUEST_TEXTS
                found = {"goodput": goodput, "clients": clients, "texts": clients * each}
            report.progress(f"{clients} {kind.__name__} clients with {each} texts each")
            url = f"http://127.0.0.1:{running.port}"
            found[kind.__name__] = asyncio.run(crowd(kind, url, clients, each, texts))
    return found


def main() -> None:
    """Measures, shows and writes bench-results/crowd.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--batch-ms", type=float, default=10.0)
    parser.add_argument("--token-ms", type=float, default=0.2)
    given = parser.parse_args()
    found = measure(given, stream(seed=22))
    rows = [found[name] for name in ("naive", "patient")]
    columns = ["seconds", "answered", "lost", "by"]
    report.table(
        ["clients", *columns],
        [
            [name, *(row[column] for column in columns)]
            for name, row in zip(("naive", "patient"), rows, strict=True)
        ],
    )
    texts = found["texts"]
    least_s = texts / found["goodput"]
    goals = [
        report.goal("texts that the crowd lost", found["patient"]["lost"], 0, at_most=True),
        report.goal(
            "time of the crowd / time at goodput", found["patient"]["seconds"] / least_s, SLOWER, at_most=True
        ),
        report.goal("share that naive loops lost", found["naive"]["lost"] / texts, NAIVE_LOST),
    ]
    report.finish("crowd", {"settings": vars(given), **found, "goals": goals})


if __name__ == "__main__":
    main()
