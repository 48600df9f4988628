"""Headers of an answer that say what it took, and what the model could not read."""

from __future__ import annotations

from collections.abc import Sequence

from api.errors import Header
from api.predict.local_cache import CachedPrediction
from batcher.messages import Prediction


def truncation(results: Sequence[CachedPrediction | Prediction]) -> list[Header]:
    """The headers of an answer of which the model could not read all tokens."""
    if not (left_out := sum([result.truncated for result in results])):
        return []
    texts = sum([result.truncated > 0 for result in results])
    return [(b"x-truncated", b"%d" % texts), (b"x-truncated-tokens", b"%d" % left_out)]


def timing(cache_s: float, runs: Sequence[Prediction], total_s: float) -> Header:
    """Server-Timing in ms. For several batches, the slowest time of each stage and the largest batch size.

    `runs` are the results that were computed for this request.
    """
    parts = [b"cache;dur=%.3f" % (cache_s * 1e3)]
    if runs:
        parts += [
            b"queue;dur=%.3f" % max(run.queue_ms for run in runs),
            b'batch;desc="%d"' % max(run.batch_size for run in runs),
            b"tokenize;dur=%.3f" % max(run.tokenize_ms for run in runs),
            b"model;dur=%.3f" % max(run.model_ms for run in runs),
        ]
    parts.append(b"total;dur=%.3f" % (total_s * 1e3))
    return (b"server-timing", b", ".join(parts))
