"""What people see of a file before it is classified."""

from __future__ import annotations

from text_files.formats import Hints
from text_files.preview import preview
from text_files.rows import FileRows


def lines(content: str, hints: Hints = Hints()) -> list[str]:  # noqa: B008
    return list(preview(FileRows([content.encode()], "a.csv", hints)).lines())


def test_the_column_of_the_texts_is_marked() -> None:
    rows = "".join(f"{number},one\n" for number in range(9))
    assert lines(f"id,text\n{rows}") == ["id | text *", "0  | one", "1  | one", "2  | one"]


def test_a_wide_table_shows_the_column_of_the_texts_too() -> None:
    names = [f"c{number}" for number in range(20)]
    found = lines(f"{','.join(names)}\n{','.join(names)}\n", Hints("c15"))
    assert found[0] == "c0 | c1 | c2 | c3 | c4 | c15 *"


def test_cells_are_short_and_move_no_cursor() -> None:
    assert lines(f'text\n"a\n\x1b[2Jb"\n{"x" * 99}\n') == ["text *", "a \ufffd[2Jb", f"{'x' * 31}…"]
