"""Results of a job as they are stored: one line of JSON per entry, just as the results page returns them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from batcher.errors import MillraceError
from batcher.jobs.records import Counts
from batcher.messages import Outcome, Prediction

TOO_LONG = b'{"error":{"code":"text_too_long","detail":"the text is longer than this service accepts"}}'


@dataclass(frozen=True, slots=True)
class ChunkResults:
    """Results of one chunk, one line of JSON per entry."""

    lines: bytes
    entries: int
    counts: Counts
    model: str


def chunk_results(outcomes: Sequence[Outcome | None], name: str) -> ChunkResults:
    """Encodes the outcomes of a chunk. `None` stands for a text that was too long to be sent."""
    lines: list[bytes] = []
    failed = truncated = left_out = 0
    revision = ""
    for outcome in outcomes:
        if isinstance(outcome, Prediction):
            lines.append(outcome.fragment)
            revision = outcome.revision
            if outcome.truncated:
                truncated += 1
                left_out += outcome.truncated
            continue
        failed += 1
        lines.append(TOO_LONG if outcome is None else _error(outcome))
    counts = Counts(failed, truncated, left_out)
    return ChunkResults(b"\n".join(lines), len(lines), counts, f"{name}@{revision[:12]}" if revision else "")


def _error(error: MillraceError) -> bytes:
    body = {"error": {"code": error.code, "detail": str(error)}}
    return json.dumps(body, separators=(",", ":")).encode()
