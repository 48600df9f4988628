"""One user, one text at a time: what the queue adds to a direct call of the same model.

python -m benchmarks.idle [--model default] [--requests 300]

Both are measured in turns over the same texts: a classifier in this process, called directly, and the
service over HTTP. The difference of the medians is the overhead.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from statistics import median

from benchmarks import report
from benchmarks.net import Connection, predict_body
from benchmarks.service import service
from benchmarks.texts import stream
from model_store import load

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    source = stream(11)
    direct = load(args.model, artefact_dir=Path("~/.cache/millrace").expanduser())

    def call(text: str) -> float:
        began = time.perf_counter()
        direct.classify(direct.tokenize([text]))
        return time.perf_counter() - began

    async def ask(port: int, texts: list[str]) -> list[float]:
        connection, spent = Connection(port), []
        for text in texts:
            began = time.perf_counter()
            status, _, _ = await connection.post("/predict", predict_body([text]))
            assert status == 200, status
            spent.append(time.perf_counter() - began)
        connection.close()
        return spent

    called: list[float] = []
    asked: list[float] = []
    with service(args.model) as running:
        for number in range(ROUNDS + 1):
            report.progress(f"round {number} of {ROUNDS}")
            texts = [next(source) for _ in range(args.requests // ROUNDS)]
            calls = [call(text) for text in texts]
            asks = asyncio.run(ask(running.port, texts))
            if number:  # the first round warms up
                called += calls
                asked += asks
    overhead_ms = (median(asked) - median(called)) * 1000
    report.table(
        ["", "median ms", "p99 ms"],
        [
            ["called directly", f"{median(called) * 1000:.2f}", f"{sorted(called)[-3] * 1000:.2f}"],
            ["through the service", f"{median(asked) * 1000:.2f}", f"{sorted(asked)[-3] * 1000:.2f}"],
        ],
    )
    goals = [report.goal("ms that the queue adds, median", overhead_ms, 2, at_most=True)]
    report.finish(
        "idle",
        {
            "model": args.model,
            "direct_ms": median(called) * 1000,
            "service_ms": median(asked) * 1000,
            "overhead_ms": overhead_ms,
            "goals": goals,
        },
    )


if __name__ == "__main__":
    main()
