"""Files as people save them, and what is right for each. All ways of reading are compared on them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

import zstandard

from text_files.decoding import HEAD_BYTES


@dataclass(frozen=True)
class Case:
    """A file: its texts, its labels if it has any, or a part of the sentence that refuses it.

    `query` are the parameters of POST /jobs, which have the names of the hints.
    """

    name: str
    content: bytes
    texts: list[str] = field(default_factory=list)
    labels: list[str] | None = None
    refused: str = ""
    query: dict[str, Any] = field(default_factory=dict)
    starts: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.content[:24]!r}"


def _gzip(content: bytes) -> bytes:
    """The same bytes in each process of the tests."""
    return gzip.compress(content, mtime=0)


# More than what is looked at to find the format.
_MANY = "1\tgood\n" * (HEAD_BYTES // 7)


def _case(name: str, content: str | bytes, texts: list[str] | str, **more: Any) -> Case:
    raw = content.encode() if isinstance(content, str) else content
    if isinstance(texts, str):
        return Case(name, raw, refused=texts, **more)
    return Case(name, raw, texts, **more)


_ZENDESK = '"Id","Description"\r\n"1","My money back.\nThanks, ""Bo"""\r\n"2","=cmd; login"\r\n'
_MEMBERS = _gzip(b"id,text\n1,good\n") + _gzip(b"2,bad\n")
_FRAMES = zstandard.compress(b"id,text\n1,good\n") + zstandard.compress(b"2,bad\n")
_LONG = zstandard.ZstdCompressor(
    compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
).compressobj()
_WIDE_WINDOW = _LONG.compress(b"text\ngood\n") + _LONG.flush()
_DESCRIPTION = {"column": "Description"}

CASES = [
    # Without a name that says what it is
    _case(
        "",
        '"id","text"\r\n"1","I love this, really"\r\n',
        ["I love this, really"],
        starts='"id","text","label"',
    ),
    _case("export.dat", _ZENDESK, ['My money back.\nThanks, "Bo"', "=cmd; login"], query=_DESCRIPTION),
    _case("", '"text"\n"good"\n"bad, too"\n', ["good", "bad, too"]),
    _case("", "text\ngood\n", ["good"]),
    _case("", '"good"\n"bad"\n', ["good", "bad"]),
    _case("", '{"body": "a"}\n{"body": "b"}\n', "its fields are 'body'"),
    # A first line that is longer than what is looked at
    *(
        _case(name, f'{{"id": "{"x" * HEAD_BYTES}", "text": "a"}}\n{{"id": 2, "text": "b"}}\n', ["a", "b"])
        for name in ("", "a.json", "a.ndjson")
    ),
    _case("a.json", f'{{"text": [{"1, " * HEAD_BYTES}', "item 1: neither a string"),
    _case("a.json", f'{{"data": [{"1, " * HEAD_BYTES}', "expected a list"),
    # A delimiter that the user names was not used to find out what these are.
    _case("", "id^text\n1^good\n", ["good"], query={"delimiter": "^"}),
    _case("a.txt", "id^text\n1^good\n", ["good"], query={"delimiter": "^"}),
    _case("a.csv", "# c\nid^text\n1^good\n", ["good"], query={"delimiter": "^"}),
    # What the name says, and the content does not
    _case("a.csv", '{"text": "a", "id": 1}\n{"text": "b"}\n', ["a", "b"], starts='{"text": "a", "id": 1, "'),
    _case("a.tsv", '[{"text": "a"}]', ["a"]),
    _case("a.csv", '{"a",text\n1,good\n', ["good"]),
    _case("a.csv", '"good"\n"bad"\n', "no column 'text'; the columns are 'good'"),
    _case("a.json", '"a"\n"b"\n', ["a", "b"]),
    _case("a.json", "{'text': 'a'}\n", "expected a list"),
    _case("a.json", '{"text": "a"}\n', ["a"], query={"header": "false"}),
    _case("a.json", '{"m": [1], "text": null}\n{"m": [2]}\n', "line 1: 'text' is null"),
    # What looks like a blank line, and other line ends
    _case("a.txt", "one\n\x85\ntwo\n\x1e\n\u2028\nthree\n", ["one", "two", "three"]),
    _case("a.txt", "one\n\ufeff\ntwo\n", ["one", "\ufeff", "two"]),
    _case("a.txt", "one\rtwo\r", ["one", "two"]),
    _case("a.csv", "id,text\r1,one\r2,two\r", ["one", "two"], starts="id,text,label,score,error\r1,one,"),
    _case("a.csv", 'text,label\r"a\n",x\r', "a carriage return outside of quotes"),
    _case("a.ndjson", '\ufeff{"text":"good"}\r\n\r\n"bad"\r\n', ["good", "bad"]),
    _case("a.ndjson", '{"text": "a\u2028b"}\n{"text": "c\x85d"}\n', ["a\u2028b", "c\x85d"]),
    _case("a.csv", 'text\ngood\n""\n', ["good", ""]),
    _case("a.csv", "text\n\ngood\n\n\n", ["", "good"]),
    # A log, which may look like lists
    _case("a.log", "[12:00] started\n[ERROR] ended\n", ["[12:00] started", "[ERROR] ended"]),
    _case("", "[2025-01-01 10:00] started\n", ["[2025-01-01 10:00] started"]),
    _case("", "{name} said hello\n", ["{name} said hello"]),
    _case("", '{"text": "a",}\n', "expected a list"),
    _case("", "[1, 2]\n", "item 1: neither a string nor an object"),
    # What was said of these: that there is no field 'text', which is one of the fields
    _case("a.ndjson", '{"text": "a"}\n{"text": null, "id": 1}\n', "line 2: 'text' is null and not a string"),
    _case("a.json", '[{"text": {"de": "a"}}]', "item 1: 'text' is an object and not a string"),
    # Columns
    _case("a.csv", "id,text,,\r\n1,good,,\r\n", ["good"], starts="id,text,,,label,score,error\r\n1,good,,,"),
    _case("a.csv", "Comment,text,Comment\n1,good,2\n", ["good"], starts="Comment,text,Comment,label"),
    _case("a.csv", "text,text\na,b\n", "2 columns are named 'text': name one by its number, 1 or 2"),
    _case("a.csv", "text,text\na,b\n", ["b"], query={"column": "2"}),
    _case("a.csv", "v1,v2,,,\nham,hello,,,\n", ["hello"], query={"column": "v2"}),
    _case("a.csv", "id, text\n1, good\n", [" good"], starts="id, text,label"),
    _case("a.csv", "id,text\n1,a\n\n2,b\n", ["a", "b"]),
    _case("a.csv", "id,text\n1,one, two\n", "3 columns, but the first line names 2"),
    _case("a.csv", "id,text\n1\n", "1 column, but the first line names 2"),
    _case("a.csv", "id,words\n1,a\n", "no column 'text'; the columns are 'id', 'words'"),
    _case("a.csv", "id,text\n1,a\n", "no column '1234567'", query={"column": "1234567"}),
    _case("a.csv", "id,text\n1,a\n", "no column '0'", query={"column": "0"}),
    # Before the header
    _case("a.csv", "sep=;\r\nid;text\r\n1;good, bad\r\n", ["good, bad"], starts="sep=;\r\nid;text;label"),
    _case("a.csv", "sep=;\nid;text\n1;good;more\n", "3 columns"),
    _case("a.csv", "\r\n\r\nid,text\r\n1,good\r\n", ["good"]),
    _case("a.csv", ",,\r\n;\r\nid,text,x\r\n1,good,\r\n", ["good"], starts=",,\r\n;\r\nid,text,x,label"),
    _case("a.csv", '# c\n,,\n"",""\nid,text,x\n1,good,\n', ["good"]),
    _case("a.csv", '"\nReview",text\na,good\n', ["good"]),
    _case("a.csv", ",,\n,,\n", "no column 'text': no column has a name"),
    _case("a.txt", "sep=;\r\nid;text\r\n1;good\r\n", ["good"]),
    _case("a.csv", "# export 2025\n#\nid,text\n1,good\n", ["good"]),
    _case("a.csv", "#,text\n1,good\n", ["good"], starts="#,text,label"),
    _case("a.csv", "#,words\n1,good\n", "the columns are '#', 'words'"),
    _case("a.csv", '"Review\n(free text)",text\n"a",good\n', ["good"]),
    _case("a.csv", '"Review\n(free text)";text\nhello, you;good\n', ["good"]),
    # Without a header
    _case(
        "",
        "ham\tsee you\nspam\twin, now\n",
        ["see you", "win, now"],
        query={"header": "false", "column": "2"},
    ),
    _case("a.csv", "ham;see you\nspam;win\n", ["see you", "win"], query={"header": "false", "column": "2"}),
    _case("a.csv", "one\ntwo\n", ["one", "two"], query={"header": "false"}),
    _case("a.tsv", "ham\tsee you\nham\twin\n", "the first line looks like a row"),
    _case("a.csv", "a,b\n1,2\n", "columns are numbers, 1 to 2, but 'text' is not", query={"header": "false"}),
    # Quotes
    _case("a.tsv", 'text\tid\n"He said ""fine"""\t1\n', ['He said "fine"'], starts="text\tid\tlabel"),
    _case("a.tsv", 'text\tid\n"Wow" he said\t1\n"so so\t2\n', ['"Wow" he said', '"so so']),
    _case("a.tsv", 'text\tid\n"a\tb"\t1\n', ["a\tb"]),
    # Two reviews, which a quote at the beginning of one and the end of the other made one.
    _case("a.tsv", 'id\ttext\n1\t"Great\n2\tso great"\n3\tx\n', ['"Great', 'so great"', "x"]),
    _case(
        "a.tsv",
        f'id\ttext\n{_MANY}1\t"Great\n2\tso great"\n',
        "line 9364: a field in quotes holds whole rows",
    ),
    _case(
        "a.tsv",
        f'id\ttext\n{_MANY}1\t"Great" he said\n',
        "line 9364: a quote inside of a field: if quotes are",
    ),
    _case("a.tsv", 'id\ttext\n1\t"a\nb"\n', ["a\nb"]),
    _case("a.tsv", 'text\n"a\nb"\nc\n', ["a\nb", "c"]),
    # The first 64 KiB end within a line end.
    _case("a.csv", f"{'text,'.ljust(HEAD_BYTES - 1, 'a')}\r\ngood,1\r\nbad,2\r\n", ["good", "bad"]),
    _case("a.tsv", 'text\tid\n"all"\t1\n', ['"all"'], query={"quotes": "false"}),
    _case(
        "a.csv",
        'text,x\n"a\tb,\t\n',
        ['"a\tb'],
        query={"quotes": "false"},
        starts='text,x,label,score,error\n"a\tb,\t,L0,',
    ),
    _case("a.csv", 'text,label\n"a\rb",x\n"c\r\nd",y\n', ["a\rb", "c\r\nd"], labels=["x", "y"]),
    _case("a.csv", 'id,text\n1,"never closed\n', "a quote is not closed"),
    _case("a.csv", 'id,text\n1,"he said \\"hi\\", ok"\n', "',' expected after '\"'"),
    _case(
        "a.csv",
        'id,text\n1,5" nail\n2,"a"b\n',
        "line 3: ',' expected after '\"': inside of quotes, a quote is written",
    ),
    _case("a.csv", 'id,text\n1,5" nail is "good"\n', ['5" nail is "good"'], starts="id,text,label"),
    _case("a.csv", 'id,text,x\n1,"=LINK(""y"")",@S\n', ['=LINK("y")'], starts="id,text,x,label"),
    _case("a.csv", "id;text,en;text\n1;hello, world;bonjour\n", ["bonjour"]),
    _case("a.csv", 'id,text\n1,"a\tb"\n2,👩\u200d👧\n', ["a\tb", "👩\u200d👧"]),
    _case("a.csv", 'id,text,note\r\n1,"l\r\nm","a ""q"" b"\r\n', ["l\r\nm"], starts="id,text,note,label"),
    _case("a.csv", '"id","text"\n1,"good"\n', ["good"], starts="id,text,label,score,error\n1,good,"),
    _case(
        "a.csv",
        '"id","text"\n"1","a\nb"\n',
        ["a\nb"],
        starts='"id","text","label","score","error"\n"1","a\nb","',
    ),
    # Encodings
    _case("a.csv", "\ufeffid,text\n1,schön\n", ["schön"], query={"encoding": "windows-1252"}),
    _case("a.csv", "id,text\n1,schön\n".encode("utf-16"), ["schön"], query={"encoding": "utf-8"}),
    _case("a.csv", "text\rschön\r".encode("mac-roman"), ["schön"], query={"encoding": "macintosh"}),
    _case("a.csv", "text\nschön\n".encode("cp850"), ["schön"], query={"encoding": "cp850"}),
    _case("a.csv", "text\n中\n".encode("gbk"), ["中"], query={"encoding": "gb2312"}),
    _case("a.csv", "text\nก\n".encode("cp874"), ["ก"], query={"encoding": "windows-874"}),
    _case("a.csv", "\ufeffid;text\r\n1;schön\r\n", ["schön"], starts="\ufeffid;text;label"),
    _case(
        "excel.txt", "id\ttext\r\n1\tschön\r\n".encode("utf-16"), ["schön"], starts="\ufeffid\ttext\tlabel"
    ),
    _case("excel.txt", "id\ttext\n1\tgood\n", ["good"]),
    _case("notes.txt", "text, and more\nid\n", ["text, and more", "id"]),
    _case("a.csv", "text\nschön\n".encode("cp1252"), "line 2: not valid UTF-8"),
    _case("a.csv", "text\rgut\rschön\r".encode("cp1252"), "line 3: not valid UTF-8"),
    _case("a.csv", "\ufefftext\n\u0a0a\nb".encode("utf-16-le") + b"\0\xd8", "line 3: not valid UTF-16"),
    _case("a.csv", "text\rgut\ra\0\r".encode("cp1252"), "line 3: a NUL", query={"encoding": "cp1252"}),
    *(
        _case("a.csv", "\ufeffid;text\n1;schön\n".encode(encoding), ["schön"], starts="\ufeffid;text;label")
        for encoding in ("utf-32-le", "utf-32-be")
    ),
    _case("a.csv", "text\ngood\n".encode("utf-32"), ["good"]),
    _case("a.csv", "text\ngood\n".encode("utf-32-be"), ["good"], query={"encoding": "utf-32-be"}),
    _case("a.csv", "text\ngood\n".encode("utf-16-le"), "name the encoding utf-16-le"),
    _case("a.csv", "text\ngood\n".encode("utf-16-le"), ["good"], query={"encoding": "utf-16-le"}),
    _case("a.csv", "text\nschön\n".encode("cp1252"), ["schön"], query={"encoding": "windows-1252"}),
    _case("a.csv", "id,text\n" + "1,good\n" * 20_000 + "2,b\0d\n", "line 20002: a NUL character"),
    # JSON, in the notation of the file
    _case(
        "a.ndjson",
        '{"id":1294030472427835393,"text":"a"}\n',
        ["a"],
        starts='{"id":1294030472427835393,"text":"a", "',
    ),
    _case(
        "a.ndjson",
        '{"text":"a","x":[1.10,1e400,NaN,{"b":null}]}\n',
        ["a"],
        starts='{"text":"a","x":[1.10,1e400,NaN,{"b":null}]',
    ),
    _case("a.ndjson", '{"text":"a","id":1,"id":2}\n', "a field is given more than once"),
    _case("a.json", '[{"text":"a","x":{"id":1,"id":2}}]', "a field is given more than once"),
    _case(
        "a.json",
        '[\n {"text": "a",\n  "n": 1.0}, "b"]',
        ["a", "b"],
        starts='{"text": "a", "n": 1.0, "prediction"',
    ),
    _case(
        "a.json", '{"text":"good","label":1}\n{"text":"bad","label":0}\n', ["good", "bad"], labels=["1", "0"]
    ),
    _case("a.ndjson", '{"text":"good","a":1}\n\n{"text":"bad","b":2}\n"just"\n', ["good", "bad", "just"]),
    _case("a.json", '[{"text":"good","n":1},{"text":"bad","k":[1]}]', ["good", "bad"]),
    _case("a.json", '{"text":{"0":"good","1":"bad"}}', "expected a list of texts or objects"),
    _case("a.json", '[{"id": 1, "data": {"text": "good"}}]', "its fields are 'id', 'data'"),
    # Compressed
    _case("a.csv.gz", _MEMBERS, ["good", "bad"]),
    _case("a.csv.gz", _gzip(b"id,text\n1,good\n") + bytes(512), ["good"]),
    _case("a.csv.gz", _gzip(b'"id') + _gzip(b'"\t"text"\n"1"\t"good"\n'), ["good"]),
    _case("a.csv.zst", _FRAMES, ["good", "bad"]),
    _case("a.csv", _FRAMES, ["good", "bad"]),
    _case("a.csv.zst", b"\x50\x2a\x4d\x18\x04\0\0\0size" + _FRAMES, ["good", "bad"]),  # as pzstd begins
    _case("a.csv.zst", _FRAMES[:-3], "the zstd file ends too early"),
    _case("a.csv.zst", _FRAMES[:4] + b"\xff" * 20, "damaged zstd file"),
    _case("a.csv.zst", _WIDE_WINDOW, "compress it again, without --long or --ultra"),
    _case("a.csv.gz", _gzip(_FRAMES), "it is compressed twice"),
    # Not texts
    _case("a.xls", "<html><body><table><tr><td>text</td></tr></table>", "an HTML or XML page"),
    _case("a.xls", "  <table><tr><td>text", "an HTML or XML page"),
    _case("", "<!DOCTYPE html>\n<p>text", "an HTML or XML page"),
    _case("a.xml", '<?xml version="1.0"?>\n<rows><row>a</row></rows>', "an HTML or XML page"),
    _case("a.docx", b"PK\x03\x04\x14\0", "an office document or a ZIP archive"),
    # With labels
    _case(
        "a.tsv",
        'text\tlabel\n"He said ""no"""\t"billing, refund"\n',
        ['He said "no"'],
        labels=["billing, refund"],
    ),
    _case("a.csv", "text,label,,\na,pos,,\n\nb,neg,,\n", ["a", "b"], labels=["pos", "neg"]),
    _case("a.csv", "sep=;\ntext;label\na;b\n", ["a"], labels=["b"]),
    _case("a.csv", "text,label\na,b\n".encode("utf-16"), ["a"], labels=["b"]),
    _case("a.csv", "text,label\ra,pos\r", ["a"], labels=["pos"]),
    _case("a.csv.zst", zstandard.compress(b"text,label\na,pos\n"), ["a"], labels=["pos"]),
    _case("a.csv.gz", _gzip(b"text,label\na,pos\n"), ["a"], labels=["pos"]),
    _case(
        "a.ndjson",
        '{"text":"a","label":1.0}\n{"text":"b","label":true}\n',
        ["a", "b"],
        labels=["1.0", "true"],
    ),
]
