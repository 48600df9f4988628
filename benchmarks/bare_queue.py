"""What a text costs at the least: a service that is a queue and nothing else, in turns with this one.

python -m benchmarks.bare_queue [--model default] [--users 32] [--texts 8] [--seconds 24]

Its API pushes the body of each request onto a list of Redis as it came, and waits for one string. Its worker
pops requests, runs the same model in passes of the same size, and pushes one string for each request. It
has no digests, cache, single flight, leases, retries, admission, limits, metrics, logs or shards.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from batcher.connection.clients import connect, connect_async
from batcher.connection.pipeline import Pipeline
from batcher.messages import fragment
from benchmarks import report
from benchmarks.net import closed_loop
from benchmarks.service import cpu_s, process, redis_in_memory, service, until
from benchmarks.texts import stream
from benchmarks.turns import PROCESSES, Turns
from millrace.settings_loader import free_port
from model_store import load

ARTEFACTS = Path("~/.cache/millrace").expanduser()
TURN_S = 2.0
BATCH_TOKENS = 1024
MAX_REQUESTS = 64
QUEUE, REPLIES = "queue", "replies"


class Api:
    """An ASGI application: each body becomes one string in the queue, each reply one response."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._numbers = count()
        self._waiting: dict[bytes, asyncio.Future[bytes]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._queue = Pipeline(connect_async(self._url, timeout_s=5, retries=0))
            self._replies = Pipeline(connect_async(self._url, timeout_s=5, retries=0))
            self._task = asyncio.create_task(self._read())
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        number = b"%d" % next(self._numbers)
        reply = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._queue.execute("RPUSH", QUEUE, number + b"\n" + body)
        answer = await reply
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _read(self) -> None:
        while True:
            first, others = await asyncio.gather(
                self._replies.execute("BLPOP", REPLIES, 1),
                self._replies.execute("LPOP", REPLIES, MAX_REQUESTS),
            )
            for raw in (*(first or [])[1:], *(others or [])):
                number, _, answer = raw.partition(b"\n")
                self._waiting.pop(number).set_result(answer)


def api(url: str, port: str) -> None:
    uvicorn.run(Api(url), port=int(port), loop="uvloop", http="httptools", access_log=False)


def worker(url: str, model: str, spent: str) -> None:
    """Keeps the processor time of its thread without forward passes in the file `spent`, in seconds."""
    classifier = load(model, engine="openvino", precision="bf16", artefact_dir=ARTEFACTS)
    client: Any = connect(url, timeout_s=5, retries=0)
    file, model_s = os.open(spent, os.O_WRONLY | os.O_CREAT), 0.0
    client.set("ready", 1)
    while True:
        first = client.blpop([QUEUE], 1)
        requests = [first[1], *(client.lpop(QUEUE, MAX_REQUESTS) or [])] if first else []
        while requests:
            taken, tokens = [], 0
            while requests and tokens < BATCH_TOKENS:
                number, _, body = requests.pop(0).partition(b"\n")
                texts = classifier.tokenize(json.loads(body)["text"])
                tokens += sum(len(text.ids) for text in texts)
                taken.append((number, texts))
            batch = [text for _, texts in taken for text in texts]
            began = time.thread_time()
            rows = iter(classifier.classify(batch))
            model_s += time.thread_time() - began
            pipe = client.pipeline(transaction=False)
            for number, texts in taken:
                parts = [fragment(classifier.info.labels, scores) for scores in islice(rows, len(texts))]
                pipe.rpush(REPLIES, number + b'\n{"predictions":[' + b",".join(parts) + b"]}")
            pipe.execute()
            os.pwrite(file, f"{time.thread_time() - model_s:.9f}\n".encode(), 0)


@contextmanager
def bare(model: str) -> Iterator[tuple[int, dict[str, int], Path]]:
    """Its port, its processes, and the file of the worker's time."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        spent = folder / "spent"
        with redis_in_memory(folder) as (url, redis_pid):
            words = [sys.executable, "-m", "benchmarks.bare_queue"]
            with (
                process([*words, "--worker", url, model, str(spent)], log=folder / "worker.log"),
                process([*words, "--api", url, str(port)], log=folder / "api.log") as api_pid,
                connect(url, timeout_s=5, retries=0) as client,
            ):
                until(lambda: bool(client.exists("ready")), 180, folder)
                time.sleep(1)
                yield port, {"api": api_pid, "redis": redis_pid}, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--texts", type=int, default=8, help="texts of a request")
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--api", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.api:
        api(*args.api)
    elif args.worker:
        worker(*args.worker)
    else:
        measure(args.model, args.users, args.texts, args.seconds)


def measure(model: str, users: int, size: int, seconds: float) -> None:
    """Takes turns, and prints the processor time a text of each process."""
    source, done = stream(37), 0
    spent = dict.fromkeys(PROCESSES, 0.0)

    def ask() -> list[str]:
        nonlocal done
        done += size
        return list(islice(source, size))

    settings: dict[str, Any] = {"engine": "openvino", "precision": "bf16", "default_budget_s": 60}
    with service(model, worker_time=True, **settings) as whole, bare(model) as (port, pids, file):
        ours = Turns(whole)

        def used() -> dict[str, float]:
            times = {name: cpu_s(pid) for name, pid in pids.items()} | {"client": time.process_time()}
            return times | {"worker": float(file.read_text() or 0)}

        uvloop.run(closed_loop(port, users, 1, ask))
        rates, done = [], 0
        for turn in range(max(round(seconds / TURN_S), 1)):
            report.progress(f"turn {turn + 1}")
            ours.turn(users, TURN_S, lambda: list(islice(source, size)))
            before = used()
            rates.append(uvloop.run(closed_loop(port, users, TURN_S, ask)).texts_per_s)
            for name, value in used().items():
                spent[name] += value - before[name]
        figures = {"this service": ours.figures()["us_per_text"]}
        figures["a queue alone"] = {name: spent[name] / done * 1e6 for name in PROCESSES}
    rows = [
        [name, *(f"{got[one]:.0f}" for one in PROCESSES), f"{sum(got.values()):.0f}"]
        for name, got in figures.items()
    ]
    report.table(["us of processor time a text", *PROCESSES, "all"], rows)
    report.finish("bare-queue", {"model": model, "users": users, "texts": size, "figures": figures})


if __name__ == "__main__":
    main()
