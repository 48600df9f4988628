"""Results of a chunk as they are stored, and which models answered them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from batcher.errors import EntryFailed, MillraceError
from batcher.jobs.records import Counts
from batcher.jobs.results import (
    TOO_LONG,
    ChunkResults,
    chunk_results,
    decode_models,
    encode_models,
    labels_of,
    names_of,
)
from batcher.lookup.queue import Result
from tests.unit.fakes import MODEL, OTHER_REVISION, REVISION, prediction

ONE, OTHER = f"stub@{REVISION[:12]}", f"stub@{OTHER_REVISION[:12]}"


def test_a_chunk_has_a_line_for_each_text_and_counts_what_went_wrong() -> None:
    failed = b'{"error":{"code":"inference_failed","detail":"why"}}'
    outcomes: Sequence[Result | MillraceError | None] = [
        prediction("a", truncated=7),
        None,
        EntryFailed("why"),
        prediction("b", OTHER_REVISION, truncated=4, foreign=True),
        prediction("c"),
        None,
    ]
    lines = [
        prediction("a").fragment,
        TOO_LONG,
        failed,
        *(prediction(text).fragment for text in "bc"),
        TOO_LONG,
    ]
    assert chunk_results(outcomes, MODEL, hits=2) == ChunkResults(
        b"\n".join(lines),
        6,
        Counts(
            failed=3,
            truncated=2,
            truncated_tokens=11,
            failed_bytes=2 * (len(TOO_LONG) + 1) + len(failed) + 1,
            tokens=9,
            hits=2,
            unknown=1,
        ),
        ONE,
        json.dumps([[ONE, "", OTHER], [0, 1, 1, 2, 0, 1]], separators=(",", ":")).encode(),
    )


def test_a_name_with_a_line_end_has_one_line() -> None:
    chunk = chunk_results([prediction("a")._replace(model="a\nb")], None)
    assert chunk.model == f"a_b@{REVISION[:12]}"


@pytest.mark.parametrize(
    ("models", "encoded"),
    [
        ([], b"[[],[]]"),
        (["m"], b'[["m"],[]]'),
        (["m", "m"], b'[["m"],[]]'),
        (["m", "n"], b'[["m","n"],[0,1]]'),
        (["n", "", "m", "n"], b'[["n","","m"],[0,1,2,0]]'),
    ],
)
def test_models_are_read_back_as_they_were_encoded(models: list[str], encoded: bytes) -> None:
    assert encode_models(models) == encoded
    assert decode_models(encoded, len(models)) == models
    assert names_of([encoded, b'[["new",""],[0,1]]']) == [*dict.fromkeys(filter(None, [*models, "new"]))]


def test_models_that_were_not_noted_are_not_known() -> None:
    assert decode_models(b"", 3) == ["", "", ""]


def test_labels_are_counted_over_all_chunks_and_errors_left_out() -> None:
    lines = [b'[{"label":"x","score":0.2},{"label":"\xc3\xa4","score":0.8}]', TOO_LONG]
    other = b'[{"label":"x","score":0.9},{"label":"\xc3\xa4","score":0.1}]'
    assert labels_of([b"\n".join(lines), other, b"\n".join([other, TOO_LONG])]) == '2 "x"\n1 "\\u00e4"'
    assert labels_of([]) == labels_of([TOO_LONG]) == ""
