"""Whole reviews read with windows and without: accuracy and speed, by the worker's own batches.

    python -m default_model.reviews --sets DIR [--windows off,126:31:mean,62:15:mean,126:31:first_last]

DIR has NAME.tsv for sets of domains/mixture.toml. Of those that `--names` lists, `choose`
and `last` are read, which the embedded model was not trained on. All settings take turns, some reviews
each time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from batcher.messages import Entry, Prediction
from batcher.worker.batching import ClaimedTexts
from batcher.worker.inference import Faults, Inference
from benchmarks import report
from default_model.corpus import Row
from default_model.domains.sets import read_mixture
from model_store import Classifier, load

BATCH_TOKENS = 512
# Reviews that one setting reads before the next one's turn.
TURN = 50


@dataclass(slots=True)
class TextWindows:
    """One setting, and what it came to."""

    windows: str
    right: int = 0
    reviews: int = 0
    tokens: int = 0
    left_out: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def read(self, classifier: Classifier, rows: Sequence[Row]) -> None:
        """Classifies whole reviews as a worker does, and compares the labels."""
        began, cpu_began = time.perf_counter(), time.process_time()
        inference = Inference(classifier, Faults(classifier))
        entries = [Entry(str(at), row.text, "bulk", 1, 0, 9000, 1) for at, row in enumerate(rows)]
        waiting = ClaimedTexts(classifier.info.layout, windows=True)
        waiting.add(inference.tokenize_entries(entries, "full")[0])
        while waiting:
            batch = waiting.next_batch(BATCH_TOKENS, lambda: BATCH_TOKENS)
            for number, found in inference.classify_entries(batch, 0).results:
                assert isinstance(found, Prediction)
                scores = [one["score"] for one in json.loads(found.fragment)]
                self.right += scores.index(max(scores)) == rows[int(number)].positive
                self.tokens += found.tokens
                self.left_out += found.truncated
        self.reviews += len(rows)
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.process_time() - cpu_began

    @property
    def row(self) -> list[str]:
        """A row of the table; the interval of the accuracy is one of 95 %."""
        accuracy, count = self.right / self.reviews, self.reviews
        return [
            self.windows,
            f"{accuracy:.1%} +- {1.96 * math.sqrt(accuracy * (1 - accuracy) / count):.1%}",
            f"{self.tokens / count:.0f}",
            f"{self.left_out / count:.0f}",
            f"{count / self.seconds:.1f}",
            f"{count / self.cpu_seconds:.1f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=Path, required=True, help="folder of the sets: NAME.tsv")
    parser.add_argument("--names", default="imdb,panglee_rest")
    parser.add_argument("--model", default="default")
    parser.add_argument("--windows", default="off,126:31:mean,62:15:mean,126:31:first_last")
    parser.add_argument("--limit", type=int, help="read only this many reviews of each part")
    parser.add_argument("--threads", type=int, default=0, help="0: the cores this process may use")
    args = parser.parse_args()
    sets = [one for one in read_mixture(args.sets).sets if one.name in args.names.split(",")]
    rows = [row for one in sets for part in (one.choose, one.last) for row in part[: args.limit]]
    report.progress(f"{len(rows)} reviews of {', '.join(one.name for one in sets)}")
    readings = [TextWindows(setting) for setting in args.windows.split(",")]
    models = [load(args.model, text_windows=one.windows, threads=args.threads) for one in readings]
    for begin in range(0, len(rows), TURN):
        for model, reading in zip(models, readings, strict=True):
            reading.read(model, rows[begin : begin + TURN])
    columns = ["windows", "accuracy", "tokens read", "left out", "reviews/s", "reviews/CPU s"]
    report.table(columns, [reading.row for reading in readings])
    report.finish("reviews", {"model": models[0].info.name, "readings": list(map(asdict, readings))})


if __name__ == "__main__":
    main()
