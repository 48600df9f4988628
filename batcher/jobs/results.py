"""Results of a job as they are stored: one line of JSON per entry, just as the results page returns them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import from_json

from batcher.core.snapshot import ModelRecord
from batcher.errors import MillraceError
from batcher.jobs.records import Counts
from batcher.lookup.queue import Result
from text_files.output import best_of

TOO_LONG = b'{"error":{"code":"text_too_long","detail":"the text is longer than this service accepts"}}'


@dataclass(frozen=True, slots=True)
class ChunkResults:
    """Results of one chunk, one line of JSON per entry. `models` says which model answered each of them.

    `model` is the one that the record of the job shows: that of the newest result, or the cascade.
    """

    lines: bytes
    entries: int
    counts: Counts
    model: str
    models: bytes


def chunk_results(
    outcomes: Sequence[Result | MillraceError | None], asked: ModelRecord | None, hits: int = 0
) -> ChunkResults:
    """Encodes the outcomes of a chunk, of which a cache knew `hits`.

    `None` stands for a text that was too long to be sent.
    """
    lines: list[bytes] = []
    failed = truncated = left_out = failed_bytes = tokens = unknown = 0
    name = asked.name if asked else ""
    model = ""
    models = list[str]()
    for outcome in outcomes:
        if not (outcome is None or isinstance(outcome, MillraceError)):
            lines.append(outcome.fragment)
            tokens += outcome.tokens
            models.append(_model_name(outcome.model or name, outcome.revision))
            model = models[-1]
            if asked is not None and outcome.model not in ("", name):  # a cascade
                model = _model_name(name, asked.revision)
            if outcome.truncated:
                truncated += 1
                left_out += outcome.truncated
            unknown += outcome.foreign
            continue
        failed += 1
        lines.append(TOO_LONG if outcome is None else _error(outcome))
        failed_bytes += len(lines[-1]) + 1
        models.append("")
    counts = Counts(failed, truncated, left_out, failed_bytes, tokens, hits, unknown)
    return ChunkResults(b"\n".join(lines), len(lines), counts, model, encode_models(models))


def encode_models(models: Sequence[str]) -> bytes:
    """The models of the texts of a chunk, "" for an error: their names, and numbers if there are several."""
    names = list(dict.fromkeys(models))
    numbers = [names.index(name) for name in models] if len(names) > 1 else []
    return json.dumps([names, numbers], separators=(",", ":")).encode()


def decode_models(encoded: bytes, entries: int) -> list[str]:
    """The inverse of `encode_models`, for a chunk of so many entries. b"": they are not known."""
    names: list[str]
    numbers: list[int]
    names, numbers = json.loads(encoded or b'[[""],[]]')
    return [names[number] for number in numbers] if numbers else names[:1] * entries


def names_of(chunks: Sequence[bytes]) -> list[str]:
    """The names of all models that have answered texts of these chunks."""
    return [name for name in dict.fromkeys(name for raw in chunks for name in json.loads(raw)[0]) if name]


def labels_of(chunks: Sequence[bytes]) -> str:
    """`COUNT LABEL` in lines, most first: how many texts have each label as their best one, as JSON."""
    lines = (line for chunk in chunks for line in chunk.split(b"\n") if line.startswith(b"[{"))
    counts = Counter(best_of(from_json(line))[0] for line in lines)
    return "\n".join(f"{count} {json.dumps(label)}" for label, count in counts.most_common())


def _model_name(name: str, revision: str) -> str:
    one_line = name.replace("\n", "_")  # the record of a job has one name a line
    return f"{one_line}@{revision[:12]}"


def _error(error: MillraceError) -> bytes:
    body = {"error": {"code": error.code, "detail": str(error)}}
    return json.dumps(body, separators=(",", ":")).encode()
