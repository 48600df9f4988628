"""What a hit costs in the dialects of other services, as a share of /predict's requests/s.

    python -m benchmarks.compat [--rounds 5] [--seconds 2] [--connections 32]

One server answers all of them. Every round drives each dialect in turn, so that whatever else the machine
does meets all of them; the ratios are medians over rounds. `us/request` is processor time of the server.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.hit import Sample, known_texts, measure, ratio, served
from benchmarks.hit_servers import TEXTS
from benchmarks.wrk import wrk_for

LEAST = 0.6
TENSOR = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
# The same three texts in each dialect; the model of the server is called "bench".
REQUESTS: Mapping[str, tuple[str, object]] = {
    "predict": ("/predict", {"text": TEXTS}),
    "huggingface": ("/", {"inputs": TEXTS, "parameters": {}}),
    "tei": ("/predict", {"inputs": [[text] for text in TEXTS]}),
    "oip": ("/v2/models/bench/infer", {"inputs": [TENSOR]}),
    "kserve": ("/v1/models/bench:predict", {"instances": TEXTS}),
    "vllm": ("/classify", {"model": "bench", "input": TEXTS}),
    "openai": ("/v1/moderations", {"input": TEXTS}),
    "fms": ("/api/v1/text/contents", {"contents": TEXTS}),
}


def run(rounds: int, seconds: int, connections: int) -> dict[str, list[Sample]]:
    """The samples of each dialect, one a round."""
    samples: dict[str, list[Sample]] = {name: [] for name in REQUESTS}
    with ExitStack() as stack:
        drivers = {name: stack.enter_context(wrk_for(*asked)) for name, asked in REQUESTS.items()}
        redis_url = stack.enter_context(known_texts())
        port, pid = stack.enter_context(served("millrace", redis_url))
        for turn in range(rounds + 1):
            report.progress(f"round {turn} of {rounds}" if turn else "warming up")
            for name, driver in drivers.items():
                sample = measure(driver, port, pid, seconds if turn else 1, connections)
                if turn:
                    samples[name].append(sample)
    return samples


def show(samples: Mapping[str, Sequence[Sample]]) -> list[dict[str, Any]]:
    """Prints the table; gives each goal with what was measured."""
    shares = {name: ratio(samples, name, "predict") for name in samples}
    rows = [
        [
            name,
            f"{median(run.rps for run in runs):.0f}",
            f"{median(run.p99_ms for run in runs):.2f}",
            f"{median(run.cpu_us for run in runs):.1f}",
            f"{shares[name]:.2f}",
        ]
        for name, runs in samples.items()
    ]
    report.table(["", "requests/s", "p99 ms", "us/request", "of /predict"], rows)
    del shares["predict"]
    return [report.goal(f"{name} / predict", share, LEAST) for name, share in shares.items()]


def main() -> None:
    """Runs everything, prints the table and writes bench-results/compat.json."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--connections", type=int, default=32)
    args = parser.parse_args()
    samples = run(args.rounds, args.seconds, args.connections)
    figures = {name: [asdict(sample) for sample in of] for name, of in samples.items()}
    report.finish("compat", {"settings": vars(args), "goals": show(samples), "samples": figures})


if __name__ == "__main__":
    main()
