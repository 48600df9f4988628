"""Labels of series of pandas and polars."""

from __future__ import annotations

import io
import sys
from typing import Any

import httpx
import pytest
from millrace_client import AsyncClient, Client, Options, TextError
from millrace_client.results import Progress
from millrace_client.series import Bar

from tests.lazy import Lazy, require_modules
from tests.unit.client.fake_service import FakeService, scores

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
    assert found.dtype == client.labels(texts.dropna()).dtype == texts.dtype
    assert (
        client.labels(pandas.Series([None])).dtype
        == client.labels(pandas.Series([], dtype="str")).dtype
        == object
    )
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
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    Bar()(Progress(10, 10))
    assert capsys.readouterr().err.startswith("\r######################## 10 of 10 texts")


class Terminal(io.StringIO):
    """Shows what was written once it is flushed."""

    shown = ""

    def isatty(self) -> bool:
        return True

    def flush(self) -> None:
        self.shown = self.getvalue()


def test_the_bar_is_drawn_ten_times_a_second_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    times = iter([100.0, 100.02, 100.11, 100.13, 100.21, 100.22, 100.3])
    monkeypatch.setattr("millrace_client.series.monotonic", lambda: next(times))
    bar, seen = Bar(), []
    for done, total in ((5, 10), (6, 10), (7, 10), (8, 10), (10, 10), (11, None)):
        bar(Progress(done, total))
        seen.append(terminal.shown)
        terminal.truncate(terminal.seek(0))
        terminal.shown = ""
    assert seen == [
        "\r############............ 5 of 10 texts, 50/s ",
        "",
        "\r################........ 7 of 10 texts, 54/s ",
        "",
        "\r######################## 10 of 10 texts, 45/s \n",
        "",
    ]


def test_the_bar_can_be_left_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    client.labels(polars.Series(["a"]), progress=False)
    assert terminal.shown == ""
    client.labels(polars.Series(["a"]))
    assert terminal.shown.startswith("\r######################## 1 of 1 texts")


@pytest.mark.parametrize("results", [1, 3])
def test_an_answer_with_more_or_fewer_results_than_texts_is_an_error(results: int) -> None:
    """Labels would be beside other texts."""
    job = {"id": "1", "status": "finished", "total": 2, "done": 2, "failed": 0}
    pages = {"predictions": [scores("a")] * results, "next_offset": None}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=pages if request.url.path.endswith("/predictions") else job)

    transport = httpx.MockTransport(answer)
    with (
        Client("http://x", options=Options(job_from=2), transport=transport) as client,
        pytest.raises(ValueError, match="zip"),
    ):
        client.labels(polars.Series(["a", "b"]))


def test_progress_is_passed_on(client: Client) -> None:
    seen: list[int] = []
    client.labels(
        polars.Series([f"t{number}" for number in range(40)]),
        progress=lambda progress: seen.append(progress.done),
    )
    assert seen[-1] == 40
