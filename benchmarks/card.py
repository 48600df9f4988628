"""The torch engine on an NVIDIA card: matrix peaks, plain torch, the engine alone, and texts through HTTP.

    python -m benchmarks.card [--models distilbert-base,bert-base] [--workers 1,4] [--seconds 5]

All on the same card in one run. Plain torch is transformers' class in the same precision, with texts that
were tokenised and sorted by length before. Shares are of the peak that a large product of matrices reaches in
that precision; the engine's operations are counted as it runs them, the last layer for first tokens only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice, product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import uvloop
from transformers import AutoModelForSequenceClassification

from benchmarks import report
from benchmarks.channel import Sender, run_with_channel
from benchmarks.limit import reference
from benchmarks.net import Tally, closed_loop
from benchmarks.operations import Shape
from benchmarks.service import READY_S, Service, service, until
from benchmarks.texts import texts
from model_store import Tokens, load
from model_store.rows import share_out

Rows = list[list[str]]
ARTEFACTS = Path("~/.cache/millrace").expanduser()
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Rows and columns of the product of matrices that measures a peak.
WIDE = 8192
# Texts of a batch in plain torch, and tokens of a batch of the engine.
PLAIN_TEXTS = (32, 128, 512)
ENGINE_TOKENS = (512, 2048, 8192, 32768)
SIZE_S = 1.0
SAMPLE = 4096
# Users and texts of a request.
LOADS = ((1, 1), (50, 3), (16, 32), (64, 32))


def peak(dtype: torch.dtype, *, tf32: bool = False) -> float:
    """Operations per second of a large product of random matrices: the median of some."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    one, other = (torch.randn(WIDE, WIDE, device="cuda", dtype=dtype) for _ in range(2))
    spent: list[float] = []
    for _ in range(12):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        torch.mm(one, other)
        ended.record()
        torch.cuda.synchronize()
        spent.append(began.elapsed_time(ended) / 1000)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * WIDE**3 / median(spent)


def rate(batches: Sequence[Any], run: Callable[[Any], object]) -> float:
    """Texts per second of `run` over the batches, for about a second after each has run once."""
    for batch in batches:
        run(batch)
    torch.cuda.synchronize()
    done, began, source = 0, time.perf_counter(), cycle(batches)
    while (spent := time.perf_counter() - began) < SIZE_S:
        batch = next(source)
        run(batch)
        done += len(batch)
    return done / spent


def single(texts: Sequence[Any], run: Callable[[Any], object]) -> dict[str, float]:
    """Median and p99, in milliseconds, of batches of one text."""
    spent: list[float] = []
    for text in (*texts[:300], *texts[:300]):
        began = time.perf_counter()
        run([text])
        spent.append((time.perf_counter() - began) * 1000)
    return {"p50_ms": report.quantile(spent[300:], 0.5), "p99_ms": report.quantile(spent[300:], 0.99)}


def plain(folder: str, dtype: torch.dtype, tokens: Sequence[Tokens]) -> tuple[dict[int, float], Any]:
    """Texts per second of transformers' class for each number of texts in a batch; times of single texts."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).eval().cuda()
    given = [list(text.ids) for text in tokens]
    ordered = sorted(given, key=len)

    def run(batch: list[list[int]]) -> list[list[float]]:
        longest = max(map(len, batch))
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in batch])
        mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in batch])
        with torch.inference_mode():
            logits = model(input_ids=ids.cuda(), attention_mask=mask.cuda()).logits
        scores: list[list[float]] = logits.float().softmax(-1).tolist()
        return scores

    found = {}
    for size in PLAIN_TEXTS:
        batches = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        found[size] = rate(batches, run)
    return found, single(given, run)


def engine(
    folder: str, precision: Any, samples: Sequence[str]
) -> tuple[dict[int, float], Any, Sequence[Tokens]]:
    """Texts per second of the engine for each number of tokens in a batch, times of single texts, tokens."""
    classifier = load(folder, engine="torch", precision=precision, artefact_dir=ARTEFACTS)
    tokens = classifier.tokenize(samples)
    found = {}
    for size in ENGINE_TOKENS:
        plan = share_out([len(text) for text in tokens], classifier.info.layout, size)
        batches = [[tokens[index] for index in chosen] for chosen in plan]
        found[size] = rate(batches, classifier.classify)
    one = single(tokens, classifier.classify)
    classifier.close()
    return found, one, tokens


def alone(model: str, precision: str) -> None:
    """Sends the figures of one model in one precision over the channel."""
    folder = reference(model, ARTEFACTS)
    by_tokens, one, tokens = engine(folder, precision, texts(SAMPLE, seed=21))
    by_texts, plain_one = plain(folder, DTYPES[precision], tokens)
    shape, lengths = Shape.of(folder), [len(text) for text in tokens]
    of_text, whole = (shape.operations(lengths, whole=one) / len(lengths) for one in (False, True))
    about = {"tokens": sum(lengths) / len(lengths), "operations": of_text, "whole": whole}
    Sender().send(
        {"engine": by_tokens, "plain": by_texts, "one": {"engine": one, "plain": plain_one}, **about}
    )


def endless(seed: int) -> Iterator[str]:
    """Texts of the usual lengths that cost little to make: each round ends them with another number."""
    made = texts(SAMPLE, seed=seed)
    return (f"{text[:-1]} {number}" for number in count() for text in made)


def asked(running: Service, users: int, size: int, seconds: float, source: Iterator[str]) -> dict[str, Any]:
    """What `users` with requests of `size` texts, none of which is known, get from the service."""
    before = _done(running)
    tally: Tally = uvloop.run(closed_loop(running.port, users, seconds, lambda: list(islice(source, size))))
    passes, done = (after - past for after, past in zip(_done(running), before, strict=True))
    statuses = {str(status): number for status, number in tally.statuses.items()}
    return {
        "texts_per_s": tally.texts_per_s,
        "p50_ms": tally.quantile_ms(0.5),
        "p99_ms": tally.quantile_ms(0.99),
        "texts_of_a_batch": done / max(passes, 1),
        "statuses": statuses,
    }


def _done(running: Service) -> tuple[int, int]:
    """Batches and texts of all workers so far."""
    time.sleep(1.0)  # a worker writes its record with its heartbeat
    with running.redis() as client:
        found = [client.hmget(name, "batches", "texts") for name in client.keys("*:worker:*")]
    return sum(int(batches) for batches, _ in found), sum(int(count) for _, count in found)


def served(
    model: str, precision: str, workers: int, processes: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """The figures of each load through HTTP."""
    folder = reference(model, ARTEFACTS)
    source = endless(31 + workers)
    settings: dict[str, Any] = {"engine": "torch", "precision": precision, "processes": processes}
    with service(folder, workers=workers, **settings) as running:
        with running.redis() as client:
            until(lambda: len(client.keys("*:worker:*")) == workers, READY_S, running.folder)
        for users, size in LOADS:
            asked(running, users, size, 1.0, source)
            yield {"users": users, "texts": size, **asked(running, users, size, seconds, source)}


def measured(
    model: str, precision: str, peak: float, args: argparse.Namespace
) -> tuple[dict[str, Any], Rows]:
    """All figures of one model in one precision, and the rows of the table."""
    status, messages = run_with_channel(
        [sys.executable, "-m", "benchmarks.card", "--alone", model, precision]
    )
    if status:
        raise SystemExit(f"{model} in {precision} ended with status {status}.")
    figures = messages[-1]
    rows: Rows = []
    for what, unit, operations in (("plain", "texts", "whole"), ("engine", "tokens", "operations")):
        for size, per_s in figures[what].items():
            share = per_s * figures[operations] / peak
            rows.append([f"{what}, {size} {unit} a batch", f"{per_s:.0f}", f"{share:.3f}", *[""] * 5])
        one = figures["one"][what]
        rows.append([f"{what}, one text", "", "", "", f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", "", ""])
    report.progress(f"{model} {precision} {rows}")
    best = max(figures["engine"].values())
    for workers in map(int, filter(None, args.workers.split(","))):
        figures[f"{workers} workers"] = loads = []
        for one in served(model, precision, workers, args.processes, args.seconds):
            report.progress(f"{model} {precision} {workers} {one}")
            loads.append(one)
            per_s = one["texts_per_s"]
            shares = f"{per_s * figures['operations'] / peak:.3f}", f"{per_s / best:.2f}"
            times = f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}", f"{one['texts_of_a_batch']:.1f}"
            name = f"HTTP, {workers} workers, {one['users']} users of {one['texts']} texts"
            rows.append([name, f"{per_s:.0f}", *shares, *times, str(one["statuses"])])
    return figures, [[f"{model} {precision} {row[0]}", *row[1:]] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="distilbert-base,bert-base")
    parser.add_argument("--precisions", default="bf16,f32")
    parser.add_argument("--workers", default="1,4", help="the numbers of workers on the card")
    parser.add_argument("--processes", type=int, default=4, help="of the API")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--alone", nargs=2, metavar=("MODEL", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        alone(*args.alone)
        return
    peaks = {"f32": peak(torch.float32), "tf32": peak(torch.float32, tf32=True), "bf16": peak(torch.bfloat16)}
    torch.cuda.empty_cache()
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    rates = ", ".join(f"{name} {per_s / 1e12:.0f} TFLOP/s" for name, per_s in peaks.items())
    print(f"{card}, torch {torch.__version__}: {rates}", flush=True)
    found: dict[str, Any] = {}
    rows: Rows = []
    for model, precision in product(args.models.split(","), args.precisions.split(",")):
        found[f"{model} {precision}"], more = measured(model, precision, peaks[precision], args)
        rows += more
    report.table(["", "texts/s", "of peak", "of engine", "p50 ms", "p99 ms", "texts/batch", "statuses"], rows)
    report.finish("card", {"card": card, "torch": torch.__version__, "peaks": peaks, "models": found})


if __name__ == "__main__":
    main()
