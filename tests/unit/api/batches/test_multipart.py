"""Forms: whatever the blocks in which they arrive, the parts are the same; malformed ones are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.batches.multipart import MAX_BYTES, MAX_PARTS, FormReader, boundary_of
from api.errors import Problem


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    lines = [
        b"--B\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), body)
        for head, body in parts
    ]
    return b"".join(lines) + end


def blocks(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def test_a_boundary_is_found_wherever_blocks_end() -> None:
    content = b"\r\n--A\r\r\n-" * 2
    body = form(('name="purpose"', b"batch"), ('name="file"; filename="x.jsonl"', content))
    for size in range(1, len(body)):
        sent = iter([body[:size], body[size:], b"what follows"])
        parts = FormReader(sent, b"B").parts()
        found = [(part.name, part.filename, b"".join(part.content)) for part in parts]
        assert found == [("purpose", None, b"batch"), ("file", "x.jsonl", content)]
        assert list(sent) == [], "all of the body is read"


@settings(max_examples=50)
@given(st.binary(max_size=60), st.integers(1, 40), st.binary(max_size=20))
def test_a_form_is_read_in_whatever_blocks_it_arrives(content: bytes, size: int, after: bytes) -> None:
    content = content.replace(b"--B", b"")
    body = form(('name="purpose"', b"batch"), ('name="file"; filename="x.jsonl"', content)) + after
    reader = FormReader(iter(blocks(body, size)), b"B")
    found = [(part.name, part.filename, b"".join(part.content)) for part in reader.parts()]
    assert found == [("purpose", None, b"batch"), ("file", "x.jsonl", content)]


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ('filename="b\u00fccher \u2028 \U0001f4da.jsonl"', "b\u00fccher \u2028 \U0001f4da.jsonl"),
        ("filename*=UTF-8''b%C3%BCcher.jsonl", "b\u00fccher.jsonl"),
        ('filename="a\\"b.jsonl"', 'a"b.jsonl'),
        ("filename*=windows-1252''b%FCcher.jsonl", "b\u00fccher.jsonl"),
        ("filename*0*=UTF-8''b%C3%BC; filename*1=cher.jsonl", "b\u00fccher.jsonl"),
    ],
)
def test_the_name_of_a_file_is_read_as_it_was_sent(sent: str, name: str) -> None:
    (part,) = FormReader(iter([form((f'name="file"; {sent}', b"1"))]), b"B").parts()
    assert part.filename == name


# Codecs of Python that raise for their own reasons, that are not for text, or that are not codecs.
CODECS = (
    "undefined",
    "idna",
    "punycode",
    "unicode_escape",
    "hex",
    "zlib",
    "utf-7",
    "mbcs",
    "x\0y",
    "",
    "\u0661",
)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("form_of", ["{0}*={1}''a%FFb", "{0}*0*={1}''a%FF; {0}*1=b"])
def test_a_client_that_chose_a_codec_of_python_got_an_internal_error(codec: str, form_of: str) -> None:
    (part,) = FormReader(
        iter([form((f'name="file"; {form_of.format("filename", codec)}', b"1"))]), b"B"
    ).parts()
    assert part.filename == "a\xffb"
    given = form_of.format("boundary", codec)
    assert boundary_of(f"multipart/form-data; {given}") == "a\xffb".encode()


@settings(max_examples=200)
@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_the_headers_are_a_form_is_read_or_refused(of_form: str, of_part: str) -> None:
    with suppress(Problem):
        boundary_of(f"multipart/form-data; boundary{of_form}")
        list(FormReader(iter([form((f"name=x; filename{of_part}", b"1"))]), b"B").parts())


def test_parts_that_are_not_read_are_skipped() -> None:
    body = b"preamble\r\n" + form(('name="a"', b"1"), ('name="b"', b"\r\n--other\r\n"))
    assert [part.name for part in FormReader(iter([body]), b"B").parts()] == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--B",
        form(('name="a"', b"1"), end=b""),
        form(("other=1", b"1")),
        b"--B\r\n\r\nno headers\r\n--B--\r\n",
        b"--B\r\nContent-Disposition: form-data; name=" + b"x" * 10_000,
        form((f'name="a"; filename*{"9" * 5000}="x"', b"1")),
        form(("name*=x; name*1=y", b"1")),
        form(*[('name="a"', b"1")] * (MAX_PARTS + 1)),
    ],
)
def test_a_malformed_form(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        list(FormReader(iter(blocks(body, 1000)), b"B").parts())
    assert caught.value.status == 422


def values(size: int, parts: int = 1, field: int = 1, head: int = 100) -> list[str]:
    """The fields of a form whose fields and heads have so many bytes, in blocks of a size."""
    fixed = len('Content-Disposition: form-data; name=""')
    body = form(*[(f'name="{"x" * (head - fixed)}"', b"x" * field)] * parts)
    return [part.value() for part in FormReader(iter(blocks(body, size)), b"B").parts()]


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_form_is_bounded_in_whatever_blocks_it_arrives(size: int) -> None:
    """Headers of any length were read if their end came in the same block."""
    assert values(size, MAX_PARTS) == ["x"] * MAX_PARTS
    assert values(size, field=MAX_BYTES, head=MAX_BYTES) == ["x" * MAX_BYTES]
    for sizes, why in (
        ({"parts": MAX_PARTS + 1}, "the form has more than 32 parts"),
        ({"field": MAX_BYTES + 1}, "a field is longer than 8192 bytes"),
        ({"head": MAX_BYTES + 1}, "the headers of a part are longer than 8192 bytes"),
    ):
        with pytest.raises(Problem) as caught:
            values(size, **sizes)
        assert caught.value.detail == [{"type": "form_invalid", "loc": ["body"], "msg": why}]


def test_headers_without_an_end_are_read_no_further() -> None:
    sent = iter([b"--B\r\n", *[b"x"] * 2 * MAX_BYTES])
    with pytest.raises(Problem):
        next(FormReader(sent, b"B").parts())
    assert len(list(sent)) == MAX_BYTES - len(b"\r\n\r\n")


def test_of_a_file_no_more_is_held_than_could_begin_a_boundary() -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield form(('name="file"', b""), end=b"").removesuffix(b"\r\n")
        for _ in range(100):
            sent += 1
            yield b"x"
        yield b"\r\n--B--\r\n"

    part = next(FormReader(body(), b"B").parts())
    read = 0
    for block in part.content:
        read += len(block)
        assert block
        assert sent - read < len(b"\r\n--B")
    assert read == 100


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "multipart/form-data",
        "text/plain; boundary=B",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'x' * 71}",
        f"multipart/form-data; boundary*{'9' * 5000}=x",
        "multipart/form-data; boundary*=x; boundary*1=y",
    ],
)
def test_a_content_type_without_a_boundary(kind: str) -> None:
    with pytest.raises(Problem) as caught:
        boundary_of(kind)
    assert caught.value.status == 415


@pytest.mark.parametrize(("given", "boundary"), [('"a b"', b"a b"), ("x" * 70, b"x" * 70), ("x", b"x")])
def test_a_boundary_has_up_to_70_characters_and_may_be_quoted(given: str, boundary: bytes) -> None:
    assert boundary_of(f"multipart/form-data; boundary={given}") == boundary
