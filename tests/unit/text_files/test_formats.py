"""What a file of texts is found to be, by name and content; the command and the upload share it."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from text_files.decoding import MAX_FIELD, filled_lines, split_lines
from text_files.errors import BadFile
from text_files.formats import FileFormat, Hints, detect
from text_files.rows import FileRows


def in_blocks(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


def texts(name: str, content: bytes, hints: Hints = Hints(), size: int = 7) -> list[str]:  # noqa: B008
    return [row.text for row in FileRows(in_blocks(content, size), name, hints)]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.csv", b"id,text\n", "CSV, separated by commas, UTF-8"),
        ("a.csv", b"id;text\n1;a, b, c\n", "CSV, separated by semicolons, UTF-8"),
        ("a.csv", b"a,b;text\n", "CSV, separated by semicolons, UTF-8"),
        ("A.CSV", b'"x;y;z",text\n', "CSV, separated by commas, UTF-8"),
        ("a.csv", b"words|id\n", "CSV, separated by vertical bars, UTF-8"),
        ("a.tsv", b"id\ttext\n", "TSV, separated by tabs, UTF-8"),
        ("a.jsonl", b'"a"\n', "NDJSON, UTF-8"),
        ("a.json", b'{"text": ["a"]}', "JSON, UTF-8"),
        ("a.txt", b"id,text\n", "TXT, UTF-8"),
        ("a.txt", "ä".encode("utf-16"), "TXT, UTF-16"),
        ("a.csv.gz", gzip.compress(b"id;text\n", mtime=0), "CSV, separated by semicolons, UTF-8, gzip"),
        # without a known suffix, as standard input: by content
        ("", b'{"text": "a"}\n{"text": "b"}\n', "NDJSON, UTF-8"),
        ("", b'{"text": ["a"]}', "JSON, UTF-8"),
        ("", b'[\n "a"\n]', "JSON, UTF-8"),
        ("", b"id;text\n1;a\n", "CSV, separated by semicolons, UTF-8"),
        ("", b"id\ttext\n1\ta\n", "TSV, separated by tabs, UTF-8"),
        ("", b"Hello, text and more\n", "TXT, UTF-8"),
        ("notes.log", b'"Good", she said.\n', "TXT, UTF-8"),
    ],
)
def test_a_format_is_found(name: str, content: bytes, found: str) -> None:
    assert str(detect(name, content)) == found


def test_what_the_user_says_counts() -> None:
    hints = Hints("b", "csv", "\t", "windows-1252")
    assert detect("a.txt", b"a\tb\n", hints) == FileFormat("csv", "\t", "cp1252")
    with pytest.raises(BadFile, match="unknown encoding 'rot13'"):
        detect("a.txt", b"a", Hints(encoding="rot13"))


@pytest.mark.parametrize("size", [1, 2, 64, 10**6])
def test_texts_do_not_depend_on_how_they_arrive(size: int) -> None:
    wanted = ["one", 'two "2"\nlines', "ä€😀", ""]
    table = 'id;text\r\n1;one\r\n2;"two ""2""\nlines"\r\n3;ä€😀\r\n4;\r\n'
    assert texts("a.csv", table.encode(), size=size) == wanted
    assert texts("a.csv", table.encode("utf-16"), size=size) == wanted
    assert texts("a.csv.gz", gzip.compress(table.encode()), size=size) == wanted
    assert texts("a.csv", table.replace("€😀", "").encode("cp1252"), Hints(encoding="cp1252"), size) == [
        *wanted[:2], "ä", "",
    ]  # fmt: skip
    for value in (wanted, {"text": wanted}, [{"n": [1, {}], "text": text} for text in wanted]):
        for ascii_only in (True, False):
            content = json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()
            assert texts("a.json", content, size=size) == wanted


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(
    ("name", "begin", "end", "around"),
    [("a.txt", "", "\n", 1), ("a.ndjson", '"', '"\n', 3), ("a.json", '["', '"]', 2)],
)
def test_how_a_long_line_arrived_decided_whether_it_was_read(
    name: str, begin: str, end: str, around: int, more: int
) -> None:
    content = f"{begin}{'x' * (MAX_FIELD - around + more)}{end}".encode()
    for size in (1000, 65_536, len(content)):
        if more:
            with pytest.raises(BadFile, match=f"longer than {MAX_FIELD} characters"):
                texts(name, content, size=size)
        else:
            assert len(texts(name, content, size=size)) == 1


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("ISO_8859-1", "iso8859-1"),
        ("latin_1", "iso8859-1"),
        ("US-ASCII", "ascii"),
        ("UTF_8_SIG", "utf-8"),
        ("UTF-32BE", "utf-32-be"),
        ("cp-1252", "cp1252"),
        ("windows1252", "cp1252"),
        ("mac_roman", "mac-roman"),
        ("x-mac-roman", "mac-roman"),
        ("Shift-JIS", "shift_jis"),
        ("x-sjis", "shift_jis"),
        ("koi8_r", "koi8-r"),
    ],
)
def test_a_usual_name_of_an_encoding_was_unknown(given: str, known: str) -> None:
    assert detect("a.csv", b"text\n", Hints(encoding=given)).encoding == known


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-16-le", "utf-16-le"), ("utf-16be", "utf-16-be"), ("gb18030", "gb18030"), ("utf-8", "utf-8")],
)
def test_a_byte_order_mark_became_part_of_the_first_text(encoding: str, mark: str) -> None:
    hints = Hints(encoding=encoding)
    for name, table in (("a.csv", "\ufefftext\na\n"), ("a.txt", "\ufeffa\n"), ("a.json", '\ufeff["a"]')):
        assert texts(name, table.encode(mark), hints, size=1) == ["a"]


def test_utf_16_without_a_byte_order_mark_ended_in_a_traceback() -> None:
    content = "text\na\n".encode("utf-16-le")
    with pytest.raises(BadFile, match="UTF-16 without a byte order mark: name utf-16-le or utf-16-be"):
        texts("a.csv", content, Hints(encoding="utf-16"))
    assert texts("a.csv", content, Hints(encoding="utf-16-le")) == ["a"]
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(BadFile, match=rf"name the encoding {encoding}$"):
            texts("a.csv", "text\na, \u0439\n".encode(encoding))
    with pytest.raises(BadFile, match=r"NUL bytes$"):
        texts("a.bin", b"\0\0\0\0abc")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("id,text\n1,a\rb\n", "a carriage return outside of quotes: lines end in LF or CRLF"),
        ('text\n"a\nb\n', "a quote is not closed"),
        ('text\n"' + "a,\n" * 600_000, "longer than 1048576 characters; perhaps a quote is not closed"),
    ],
)
def test_a_broken_table_is_explained(table: str, message: str) -> None:
    with pytest.raises(BadFile, match=message):
        texts("a.csv", table.encode(), size=65_536)


def test_several_gzip_members_are_one_file() -> None:
    assert texts("a.txt.gz", gzip.compress(b"a\n") + gzip.compress(b"b\n")) == ["a", "b"]


def test_each_gzip_member_copied_all_that_was_behind_it_in_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def recorded(wbits: int) -> Any:
        made.append(decompressobj(wbits=wbits))
        return made[-1]

    decompressobj = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", recorded)
    packed = gzip.compress(b"a") * 5000
    assert texts("a.txt.gz", packed, size=len(packed)) == ["a" * 5000]
    copied = sum(len(decoder.unused_data) for decoder in made)
    assert copied < 5000 * 32 * 1024


@pytest.mark.parametrize("size", [1, 7, 65_536])
def test_zeros_behind_gzip_members_are_padding(size: int) -> None:
    """As tapes and disk images have them; gzip ignores them, too."""
    first, second, zeros = gzip.compress(b"a\n"), gzip.compress(b"b\n"), bytes(1000)
    assert texts("a.txt.gz", first + zeros, size=size) == ["a"]
    assert texts("a.txt.gz", first + zeros + second + zeros, size=size) == ["a", "b"]
    with pytest.raises(BadFile, match="damaged gzip file"):
        texts("a.txt.gz", first + zeros + b"more than a header", size=size)


@pytest.mark.parametrize("content", [b"[" * 60_000, b"a\rb,c\rd\n", b'"' * 60_000, b"{" * 60_000])
@pytest.mark.parametrize("name", ["", "a.csv", "a.json", "a.ndjson"])
def test_hostile_files_are_refused_and_nothing_else(name: str, content: bytes) -> None:
    with suppress(BadFile):
        assert all(isinstance(text, str) for text in texts(name, content, size=4096))


def test_a_long_json_item_is_read_in_parts() -> None:
    long = "word " * 50_000
    assert texts("a.json", json.dumps(["a", long, "b"]).encode(), size=1000) == ["a", long, "b"]
    with pytest.raises(BadFile, match="item 1: not valid JSON"):
        texts("a.json", b'["' + b"a" * 3_000_000, size=65_536)


def test_a_header_of_many_columns_took_the_square_of_their_number() -> None:
    """78 KiB of header took 3 s of processor time."""
    names = [f"{number:x}" for number in range(16_000)]
    began = process_time()
    assert texts("a.csv", ",".join(["text", *names]).encode() + b"\n" + b"1," * 16_000 + b"1", size=4096) == [
        "1"
    ]
    with pytest.raises(BadFile, match="2 columns are named 'text'"):
        texts("a.csv", ",".join(["text", *names, "text"]).encode(), size=4096)
    assert process_time() - began < 1
    with pytest.raises(BadFile, match="20001 columns, but a table may have 16384"):
        texts("a.csv", b"text" + b"," * 20_000, size=4096)


def test_a_record_over_many_lines_had_no_limit() -> None:
    """15 MiB of body took 400 MiB."""
    lines = b'text\n"' + (b"x" * 1000 + b"\n") * 2000 + b'"'
    with pytest.raises(BadFile, match="a record is longer than 1048576 characters"):
        texts("a.csv", lines, size=65_536)
    assert (
        len(texts("a.csv", b'text\n"' + b"x\n" * 500_000 + b'"\n"' + b"x\n" * 500_000 + b'"', size=65_536))
        == 2
    )


def test_a_header_counted_as_a_part_of_the_first_row() -> None:
    name, value = b"x" * 600_000, b"y" * 600_000
    assert texts("a.csv", b"text,%b\na,%b\n" % (name, value), size=65_536) == ["a"]


def test_a_suggestion_for_a_mistyped_column_compared_every_name() -> None:
    """1,000 names of 198 characters took 3.9 s of processor time."""
    rotated = ["ab" * 90 + f"{number:04}" for number in range(1000)]
    began = process_time()
    with pytest.raises(BadFile, match="no column"):
        texts("a.csv", ",".join(rotated).encode(), Hints("ab" * 99), size=65_536)
    with pytest.raises(BadFile, match="did you mean 'Review'"):
        texts("a.csv", ",".join([*"abcdefghijklmnopqrstuvwxyz", "Review"]).encode(), Hints("review"))
    assert process_time() - began < 1


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.txt", b"id,text\n1,good\n2,bad\n", "names a column 'text': if so, choose the format CSV"),
        ("a.csv.txt", b'"id";"text"\n', "names a column 'text'"),
        (
            "",
            b"ham\tsee you\nspam\twin\n",
            "the lines look like rows of a table: if so, choose a column by its",
        ),
        ("a.txt", b"1;a\n2;b\n3;c\n", "1 to 2, without a header"),
        ("a.tsv", b"ham\tsee you\nham\twin\n", "the first line looks like a row: if so"),
        ("a.txt", b'{"text": "a"}\n', "the lines look like JSON: if so, choose the format NDJSON"),
        ("", b"Well, yes.\nNo.\nWell, no.\n", ""),
        ("a.csv", b"id,words\n1,a\n", ""),
        ("a.csv", b"id,text\n1,a\n", ""),
    ],
)
def test_a_table_without_a_header_was_classified_without_a_word(name: str, content: bytes, note: str) -> None:
    found = detect(name, content).note
    assert note in found
    assert bool(found) == bool(note)


@pytest.mark.parametrize("line", [b"\n", b"#\n", b"sep=;\n", b"# a,b\n"])
def test_lines_before_a_header_cost_no_more_than_their_length(line: bytes) -> None:
    began = process_time()
    with suppress(BadFile):
        texts("a.csv", line * (64 * 1024 // len(line)) + b"id,text\n1,a\n", size=65_536)
    assert process_time() - began < 2


@given(st.lists(st.text("a\n\n\n \t\r\v\x85\N{EM SPACE}", max_size=9), max_size=5), st.sampled_from("\n\r"))
def test_blank_lines_are_left_out_and_counted(parts: list[str], end: str) -> None:
    numbered = enumerate(split_lines(parts, end), 1)
    assert list(filled_lines(parts, end)) == [(number, line) for number, line in numbered if line.strip()]


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \n", "\N{EM SPACE}\n".encode()])
@pytest.mark.parametrize("name", ["a.txt", "a.ndjson"])
def test_each_blank_line_was_read_on_its_own(name: str, blank: bytes) -> None:
    """24 MiB took 2.6 s of processor time, now 0.1 s."""
    gap = blank * (24 * 1024**2 // len(blank))
    began = process_time()
    rows = FileRows([b'"a"\n', *in_blocks(gap, 65_536), b'"b"\n'], name, Hints())
    assert [row.number for row in rows] == [1, 2 + len(gap) // len(blank)]
    assert process_time() - began < 1.2
