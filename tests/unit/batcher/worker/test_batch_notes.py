"""What a worker's record says about its last batches."""

from __future__ import annotations

import pytest

from batcher.messages import BatchNote, Entry, decode_notes
from batcher.worker.batching import TokenizedEntry
from batcher.worker.inference import FinishedBatch
from batcher.worker.stats import NOTES, BatchReport, WorkerStats
from model_store import Tokens
from model_store.stub import StubClassifier


def test_a_batch_is_logged_in_milliseconds() -> None:
    entries = [Entry(name, "text", "interactive", 5, 0, 9000, attempts=1) for name in ("x", "y")]
    waits = (0.0123456, 0.0012)
    report = BatchReport(7, tuple(entries), 2, 10, 16, "full", waits, 0.0012345, 0.0234567, 1)
    logged = report.log_context()
    assert (logged["longest_wait_ms"], logged["tokenize_ms"], logged["model_ms"]) == (12.3, 1.23, 23.46)
    assert (logged["batch"], logged["size"], logged["entries"]) == (7, 2, ["x", "y"])
    assert "text" not in logged.values()


def held(waited_ms: int, claimed_at: float) -> TokenizedEntry:
    entry = Entry("x", "text", "interactive", 5, waited_ms, 9000, attempts=1)
    return TokenizedEntry(entry, Tokens((1, 2, 3), truncated=0, unknown=0), 0.001, claimed_at, "idle")


def test_a_report_says_how_long_texts_waited_before_and_after_they_were_claimed() -> None:
    batch = [held(500, 10.0), held(250, 9.5)]
    report = WorkerStats().add(FinishedBatch(batch, [], 16, 10.25, 0.5))
    assert report.queue_s == (0.75, 1.0)
    assert (report.size, report.tokens, report.ended_at) == (2, 6, 10.75)


def test_a_record_lists_the_last_batches() -> None:
    stats = WorkerStats()
    for _ in range(NOTES + 5):
        stats.add(FinishedBatch([held(0, 10.0)], [], 16, 10.0, 0.5))
    recent = decode_notes(stats.record(StubClassifier().info, "idle")["recent"])
    assert [note.number for note in recent] == list(range(6, NOTES + 6))


def test_batch_notes_survive_their_encoding() -> None:
    notes = (BatchNote(7, 8, 140, 152, "full", 3.5, 12.4), BatchNote(8, 1, 5, 5, "idle", 0.0, 1.0))
    assert decode_notes(";".join(note.encode() for note in notes)) == notes
    assert decode_notes("") == ()


@pytest.mark.parametrize("text", ["7", "a,b,c,d,full,1,2", "1,2,3,4,full,1,2;", ";"])
def test_foreign_batch_notes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal|convert"):
        decode_notes(text)
