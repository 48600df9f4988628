"""Labels of series of pandas and polars."""

from __future__ import annotations

import sys
from typing import Any

import httpx
import pytest
from millrace_client import AsyncClient, Client, TextError
from millrace_client.results import Progress
from millrace_client.series import Bar

from tests.lazy import Lazy, require_modules
from tests.unit.client.fake_service import FakeService

require_modules("pandas", "polars")
pandas: Any = Lazy("pandas")
polars: Any = Lazy("polars")


@pytest.fixture
def client() -> Client:
    """Of a service by which the best label of a text, at 0.75, is the text, and the other one NEGATIVE."""
    return Client("http://x", transport=httpx.MockTransport(FakeService(bad=frozenset(["fail"]))))


def test_a_series_of_pandas_keeps_its_index_and_what_is_missing(client: Client) -> None:
    texts = pandas.Series(["a", None, "b", float("nan")], index=["d", "b", "b", "a"])
    found = client.labels(texts)
    assert (found.name, list(found.index)) == ("label", ["d", "b", "b", "a"])
    assert list(found.isna()) == [False, True, False, True]
    assert list(found.dropna()) == ["a", "b"]
    frame = client.labels(texts, scores=True)
    assert (list(frame.columns), list(frame.index)) == (["NEGATIVE", "a", "b"], ["d", "b", "b", "a"])
    assert frame["NEGATIVE"].fillna(-1).tolist() == [0.25, -1, 0.25, -1]
    assert frame["b"].fillna(-1).tolist() == [-1, -1, 0.75, -1]
    assert str(frame["a"].dtype) == "float64"


def test_a_series_of_polars_keeps_nulls(client: Client) -> None:
    found = client.labels(polars.Series("text", ["a", None, "b"]))
    assert (found.name, found.dtype, found.to_list()) == ("label", polars.String, ["a", None, "b"])
    frame = client.labels(polars.Series(["a", None]), scores=True)
    assert frame.to_dicts() == [{"NEGATIVE": 0.25, "a": 0.75}, {"NEGATIVE": None, "a": None}]


@pytest.mark.parametrize("library", [pandas, polars], ids=["pandas", "polars"])
def test_a_series_without_texts(client: Client, library: Any) -> None:
    assert list(client.labels(library.Series([None, None]))) == [None, None]
    empty = client.labels(library.Series([], dtype=object if library is pandas else polars.String))
    assert (len(empty), empty.name) == (0, "label")


def test_categories_are_texts(client: Client) -> None:
    assert list(client.labels(pandas.Series(["a", "b", "a"], dtype="category"))) == ["a", "b", "a"]


def test_a_text_that_fails_is_named_by_its_place_in_the_series(client: Client) -> None:
    texts = pandas.Series([None, "a", "fail"])
    with pytest.raises(TextError) as said:
        client.labels(texts)
    assert said.value.index == 2
    assert client.labels(texts, errors="missing").isna().tolist() == [True, False, True]


@pytest.mark.parametrize("kind", ["list", "str", "pandas", "polars"])
def test_what_is_no_series_is_refused(client: Client, kind: str) -> None:
    other = {
        "list": ["a"],
        "str": "a",
        "pandas": pandas.DataFrame({"a": ["b"]}),
        "polars": polars.DataFrame({"a": ["b"]}),
    }[kind]
    with pytest.raises(TypeError, match=r"labels\(\) needs a Series of pandas or polars, not "):
        client.labels(other)


def test_numbers_are_not_texts(client: Client) -> None:
    with pytest.raises(TypeError, match=r"text 0 must be a string, not int$"):
        client.labels(polars.Series([1]))
    # Missing texts were not counted.
    with pytest.raises(TypeError, match=r"text 2 must be a string, not int$"):
        client.labels(pandas.Series(["a", None, 5], dtype=object))


async def test_the_client_for_asyncio_does_the_same() -> None:
    async with AsyncClient("http://x", transport=httpx.MockTransport(FakeService())) as client:
        assert (await client.labels(polars.Series(["a", None]))).to_list() == ["a", None]


def test_the_bar_is_for_terminals_and_notebooks_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Bar()(Progress(5, 10))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Bar()
    bar(Progress(5, 10))
    bar(Progress(10, 10))
    said = capsys.readouterr().err
    assert said.startswith("\r############............ 5 of 10 texts")
    assert said.rstrip("\n").rpartition("\r")[2].startswith("######################## 10 of 10 texts")


def test_progress_is_passed_on(client: Client) -> None:
    seen: list[int] = []
    client.labels(
        polars.Series([f"t{number}" for number in range(40)]),
        progress=lambda progress: seen.append(progress.done),
    )
    assert seen[-1] == 40
