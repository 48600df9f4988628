"""What a worker's record tells of its last batches."""

from __future__ import annotations

import pytest

from batcher.messages import BatchNote, decode_notes


def test_batch_notes_survive_their_encoding() -> None:
    notes = (BatchNote(7, 8, 140, 152, "full", 3.5, 12.4), BatchNote(8, 1, 5, 5, "idle", 0.0, 1.0))
    assert decode_notes(";".join(note.encode() for note in notes)) == notes
    assert decode_notes("") == ()


@pytest.mark.parametrize("text", ["7", "a,b,c,d,full,1,2", "1,2,3,4,full,1,2;", ";"])
def test_foreign_batch_notes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal|convert"):
        decode_notes(text)
