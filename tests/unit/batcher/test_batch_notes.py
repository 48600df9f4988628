"""What a worker's record tells of its last batches."""

from __future__ import annotations

import pytest

from batcher.messages import BatchNote, Entry, decode_notes
from batcher.worker.stats import BatchReport


def test_a_batch_is_logged_in_milliseconds() -> None:
    entries = [Entry(name, "text", "interactive", 5, 0, 9000, attempts=1) for name in ("x", "y")]
    waits = (0.0123456, 0.0012)
    report = BatchReport(7, tuple(entries), 2, 10, 16, "full", waits, 0.0012345, 0.0234567, 1, 0, 1)
    logged = report.log_context()
    assert (logged["longest_wait_ms"], logged["tokenize_ms"], logged["model_ms"]) == (12.3, 1.23, 23.46)
    assert (logged["batch"], logged["size"], logged["entries"]) == (7, 2, ["x", "y"])
    assert "text" not in logged.values()


def test_batch_notes_survive_their_encoding() -> None:
    notes = (BatchNote(7, 8, 140, 152, "full", 3.5, 12.4), BatchNote(8, 1, 5, 5, "idle", 0.0, 1.0))
    assert decode_notes(";".join(note.encode() for note in notes)) == notes
    assert decode_notes("") == ()


@pytest.mark.parametrize("text", ["7", "a,b,c,d,full,1,2", "1,2,3,4,full,1,2;", ";"])
def test_foreign_batch_notes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal|convert"):
        decode_notes(text)
