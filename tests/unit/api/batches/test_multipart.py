"""Forms: whatever the blocks in which they arrive, the parts are the same; malformed ones are refused."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.batches.multipart import MAX_PARTS, FormReader, boundary_of
from api.errors import Problem


def form(*parts: tuple[str, bytes], end: bytes = b"--B--\r\n") -> bytes:
    lines = [
        b"--B\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), body)
        for head, body in parts
    ]
    return b"".join(lines) + end


def blocks(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


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


def test_a_field_is_bounded() -> None:
    reader = FormReader(iter(blocks(form(('name="purpose"', b"x" * 20_000)), 1000)), b"B")
    with pytest.raises(Problem, match="invalid_request"):
        [part.value() for part in reader.parts()]


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "multipart/form-data",
        f"multipart/form-data; boundary={'x' * 71}",
        f"multipart/form-data; boundary*{'9' * 5000}=x",
        "multipart/form-data; boundary*=x; boundary*1=y",
    ],
)
def test_a_content_type_without_a_boundary(kind: str) -> None:
    with pytest.raises(Problem) as caught:
        boundary_of(kind)
    assert caught.value.status == 415


def test_a_boundary_may_be_quoted() -> None:
    assert boundary_of('multipart/form-data; boundary="a b"') == b"a b"
