"""What a billion classifications cost: the best rate of one service over numbers of users, and what it costs.

    python -m benchmarks.billion [--model distilbert-base] [--seconds 20] [--price NAME=DOLLARS_AN_HOUR ...]
    python -m benchmarks.billion --engine torch --precision bf16 --workers 4 --processes 4 --price h100=4.5

One text a request, none known, of the lengths in docs/peers.md. Users ask again as soon as they are answered.
The load generator is a process (uvloop) on the same machine. Where it takes a whole core, it is the limit.
Without a card, the best rate is shown as a share of the processor's peak, too (`benchmarks.operations`).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import uvloop
from tokenizers import Tokenizer

from benchmarks import report
from benchmarks.limit import reference
from benchmarks.net import closed_loop
from benchmarks.operations import Peaks, Shape
from benchmarks.service import READY_S, Service, service, until
from benchmarks.texts import WORDS
from model_store.hardware import cards, has_bf16

# Tokens, special ones included. Between these bounds, the log-normal has a mean of 99.4, a deviation of 59.0.
SHORTEST, LONGEST = 50, 509
_MU, _SIGMA = 4.4, 0.59
SAMPLE = 10_000
FEWEST_USERS = 16
GROWTH = 1.02
STEPS = 3
COLUMNS = ("users", "requests/s", "p50 ms", "p95 ms", "p99 ms", "not answered", "generator, cores")


def lengths(count: int, seed: int = 0) -> list[int]:
    """Tokens of `count` texts."""
    rng = random.Random(seed)
    drawn = (round(rng.lognormvariate(_MU, _SIGMA)) for _ in range(count))
    return [min(LONGEST, max(SHORTEST, length)) for length in drawn]


def endless(tokenizer: Tokenizer, tokens: Sequence[int], seed: int = 0) -> Iterator[str]:
    """Different texts of these numbers of tokens, round after round: each begins with two other words."""
    rng = random.Random(seed)
    least = len(tokenizer.encode("the").ids)
    words = [word for word in WORDS if len(tokenizer.encode(f"the {word}").ids) == least + 1]
    made = [" ".join(rng.choices(words, k=length - least - 2)) for length in tokens]
    begun = product(dict.fromkeys(words), repeat=2)
    return (f"the {one} {other} {text}" for one, other in begun for text in made)


def search(rate: Callable[[int], float], most: int) -> dict[int, float]:
    """Rates by users: twice as many while that brings 2 % or more, then STEPS beside the best one."""
    rates = {FEWEST_USERS: rate(FEWEST_USERS)}
    users = 2 * FEWEST_USERS
    while users <= most:
        rates[users] = rate(users)
        if rates[users] < GROWTH * rates[users // 2]:
            break
        users *= 2
    for _ in range(STEPS):
        beside_best = [pair for pair in pairwise(sorted(rates)) if max(rates, key=rates.__getitem__) in pair]
        between = sum(max(beside_best, key=lambda pair: sum(rates[one] for one in pair), default=(0, 0))) // 2
        if between and between not in rates:
            rates[between] = rate(between)
    return rates


def measured(running: Service, users: int, seconds: float, source: Iterator[str]) -> dict[str, Any]:
    """What so many users get from the service."""
    uvloop.run(closed_loop(running.port, users, 1.0, lambda: [next(source)]))
    began, spent = time.perf_counter(), time.process_time()
    tally = uvloop.run(closed_loop(running.port, users, seconds, lambda: [next(source)]))
    cores = (time.process_time() - spent) / (time.perf_counter() - began)
    figures = {"users": users, "requests_per_s": tally.texts_per_s, "statuses": tally.statuses}
    quantiles = {f"p{share}_ms": tally.quantile_ms(share / 100) for share in (50, 95, 99)}
    return figures | quantiles | {"generator_cores": cores}


def _row(figures: dict[str, Any]) -> list[str]:
    times = (f"{figures[name]:.1f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
    lost = sum(count for status, count in figures["statuses"].items() if status != 200)
    rate, cores = (f"{figures[name]:.2f}" for name in ("requests_per_s", "generator_cores"))
    return [str(figures["users"]), rate, *times, str(lost), cores]


def dollars(rate: float, price: float) -> float:
    """A billion texts at `rate` texts per second, for `price` dollars an hour."""
    return 1e9 / rate / 3600 * price


def main() -> None:
    args = _arguments()
    folder = reference(args.model, Path("~/.cache/millrace").expanduser())
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokens = lengths(SAMPLE, seed=1)
    source = endless(tokenizer, tokens, seed=2)
    chosen = {name: getattr(args, name) for name in ("engine", "precision") if getattr(args, name)}
    peaks = None if cards() else Peaks.measure()
    found: list[dict[str, Any]] = []
    with service(folder, workers=args.workers, processes=args.processes, **chosen) as running:
        with running.redis() as client:
            until(lambda: len(client.keys("*:worker:*")) == args.workers, READY_S, running.folder)

        def rate(users: int) -> float:
            found.append(measured(running, users, args.seconds, source))
            report.progress(f"{users} users: {found[-1]['requests_per_s']:.1f} requests/s")
            return float(found[-1]["requests_per_s"])

        search(rate, args.most)
    found.sort(key=lambda figures: int(figures["users"]))
    best = max(found, key=lambda figures: float(figures["requests_per_s"]))
    costs = {name: dollars(best["requests_per_s"], price) for name, price in args.price}
    report.table(COLUMNS, [_row(figures) for figures in found])
    print(f"best: {best['requests_per_s']:.1f} requests/s with {best['users']} users")
    if peaks:
        per_s = best["requests_per_s"] * Shape.of(folder).operations(tokens) / len(tokens)
        precision = args.precision or ("bf16" if has_bf16() else "f32")
        print(f"{peaks.share(precision, per_s):.2f} of the peak in {precision}")
    for name, price in args.price:
        print(f"a billion texts: {costs[name]:.0f} dollars at {price:g} an hour ({name})")
    about = {"tokens": {"mean": fmean(tokens), "deviation": pstdev(tokens)}} | chosen
    report.finish("billion", about | {"best": best, "dollars": costs, "users": found})


def _price(text: str) -> tuple[str, float]:
    name, dollars_an_hour = text.split("=")
    return name, float(dollars_an_hour)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="distilbert-base", help="a shape of random models, or a directory")
    for name in ("--engine", "--precision"):
        parser.add_argument(name, help="by default, what a worker chooses")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="of the API")
    parser.add_argument("--seconds", type=float, default=20, help="for each number of users")
    parser.add_argument("--most", type=int, default=1024, help="users")
    parser.add_argument("--price", nargs="*", type=_price, default=[], metavar="NAME=DOLLARS_AN_HOUR")
    return parser.parse_args()


if __name__ == "__main__":
    main()
