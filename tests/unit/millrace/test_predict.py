"""`millrace predict` against a service that is a function."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest

from millrace.__main__ import main

PAIRS = {
    "good": [{"label": "NEGATIVE", "score": 0.1}, {"label": "POSITIVE", "score": 0.9}],
    "bad": [{"label": "NEGATIVE", "score": 0.75}, {"label": "POSITIVE", "score": 0.25}],
}
# What other services answer.
OTHER = ("<html>welcome</html>", "[]", "{}")
asked: list[tuple[str, list[str]]] = []


def answer(request: httpx.Request) -> httpx.Response:
    texts = json.loads(request.content)["text"]
    asked.append((request.url.path, texts))
    if "boom" in texts:
        return httpx.Response(422, json={"code": "poison", "detail": "text 1 ended three workers"})
    if texts[0] in OTHER:
        return httpx.Response(200, text=texts[0])
    headers = {"x-unknown": "1"} if "bad" in texts else {}
    return httpx.Response(
        200, json={"predictions": [PAIRS.get(text, PAIRS["good"]) for text in texts]}, headers=headers
    )


@pytest.fixture(autouse=True)
def service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked.clear()

    def client(url: str, key: str = "", **_: Any) -> httpx.Client:
        return httpx.Client(base_url=url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr("millrace.service_client.http_client", client)


def typed(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="ascii", errors="strict")


def run(*words: str) -> int:
    return main(["predict", *words, "--url", "http://127.0.0.1:9"])


def test_each_text_has_a_line_with_its_best_label(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("good", "bad") == 0
    out, err = capsys.readouterr()
    assert out == "POSITIVE  0.9000  good\nNEGATIVE  0.7500  bad\n"
    assert err == "The model mostly does not know 1 of 2 texts.\n"
    assert asked == [("/predict", ["good", "bad"])]


def test_texts_are_lines_of_the_input_if_none_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", typed(b"\xef\xbb\xbfgood\n\nbad\r\n"))
    assert run("--json", "--model", "org/other") == 0
    assert json.loads(capsys.readouterr().out) == {"predictions": [PAIRS["good"], PAIRS["bad"]]}
    assert asked == [("/models/org/other/predict", ["good", "bad"])]


def test_without_a_text_it_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", typed(b"\n"))
    assert run() == 2
    assert 'millrace predict "I love you."' in capsys.readouterr().err
    assert asked == []


def test_what_the_service_refuses_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("good", "boom") == 1
    assert capsys.readouterr().err == "millrace predict: text 1 ended three workers.\n"


def test_a_text_that_is_not_utf8_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("caf\udce9") == 2
    assert "not UTF-8" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize("model", ["..", "../x", "org/."])
def test_what_is_not_a_name_is_not_part_of_a_path(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("good", "--model", model) == 2
    assert capsys.readouterr().err == f"millrace predict: --model {model}: a model cannot have this name.\n"
    assert asked == []


def test_only_line_feeds_end_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in files (docs/files.md): U+2028, a form feed and others were taken for ends of lines."""
    monkeypatch.setattr("sys.stdin", typed("a\u2028b\fc\x85d\re\r\n\u2603\n".encode()))
    assert run() == 0
    assert asked == [("/predict", ["a\u2028b\fc\x85d\re", "\u2603"])]


def test_an_input_that_is_not_utf8_is_a_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", typed(b"caf\xe9\n"))
    assert run() == 2
    said = "millrace predict: standard input is not UTF-8: save the text in this encoding.\n"
    assert capsys.readouterr().err == said
    assert asked == []


def test_a_locale_without_a_character_shows_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a UnicodeEncodeError."""
    printed = typed(b"")
    monkeypatch.setattr("sys.stdout", printed)
    assert run("caf\u00e9 \u2603") == 0
    printed.seek(0)
    assert printed.read() == "POSITIVE  0.9000  caf\\xe9 \\u2603\n"


@pytest.mark.parametrize("other", OTHER)
def test_the_answer_of_another_service_was_a_traceback(
    capsys: pytest.CaptureFixture[str], other: str
) -> None:
    assert run(other) in (1, 2)
    assert capsys.readouterr().err.endswith("is this a Millrace API?\n")
