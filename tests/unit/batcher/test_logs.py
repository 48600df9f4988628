from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import re
from collections.abc import Iterator
from select import PIPE_BUF

import pytest

from batcher import logs


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """Where the lines go; logging is put back as it was afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_has_one_object_a_line_with_the_events_own_fields(out: io.StringIO) -> None:
    logs.setup("info", "json", out)
    logging.getLogger("api").info("a request", extra={"action": "request", "status": 200, "ms": 1.5})
    line = json.loads(out.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {"level": "info", "action": "request", "message": "a request", "status": 200, "ms": 1.5}


def test_a_line_of_others_has_their_name_as_action(out: io.StringIO) -> None:
    logs.setup("info", "json", out)
    logging.getLogger("redis").warning("gone %s", "away")
    line = json.loads(out.getvalue())
    assert (line["action"], line["message"], line["level"]) == ("redis", "gone away", "warning")


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_value_can_forge_a_line(out: io.StringIO, form: logs.Format) -> None:
    logs.setup("info", form, out)
    forged = 'x\n{"action": "forged"}\r\x1b[2J\u2028'
    logging.getLogger("api").info("said", extra={"action": "a", "value": forged})
    logging.getLogger("api").info(forged)
    assert len(out.getvalue().splitlines()) == 2
    assert "\x1b" not in out.getvalue()


def test_an_exception_comes_with_its_name_and_traceback(out: io.StringIO) -> None:
    logs.setup("info", "json", out)
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("api").exception("unexpected", extra={"action": "crash"})
    line = json.loads(out.getvalue())
    assert line["error"] == "ValueError"
    assert line["traceback"].endswith("ValueError: no")


def test_text_is_for_people(out: io.StringIO) -> None:
    logs.setup("info", "text", out)
    logging.getLogger("api").warning(
        "redis is back", extra={"action": "redis.back", "why": "up", "away_s": 1.5}
    )
    date, clock, rest = out.getvalue().split(" ", 2)
    assert len(f"{date} {clock}") == len("2026-01-01 12:00:00.000")
    assert rest == "WARNING redis.back  redis is back  why=up  away_s=1.5\n"


def test_level_and_second_setup(out: io.StringIO) -> None:
    logs.setup("debug", "json", io.StringIO())
    logs.setup("warning", "json", out)
    logging.getLogger("api").info("not this")
    logging.getLogger("api").error("this")
    assert [json.loads(line)["message"] for line in out.getvalue().splitlines()] == ["this"]


def test_auto_is_json_where_nobody_looks(out: io.StringIO) -> None:
    logs.setup("info", "auto", out)
    logging.getLogger("api").info("x")
    assert json.loads(out.getvalue())["message"] == "x"


async def test_frequent_events_of_a_tick_are_written_at_once(out: io.StringIO) -> None:
    logs.setup("info", "json", out)
    many = logs.Frequent(logging.getLogger("api"), "request")
    many.add(logging.INFO, {"status": 200, "said": "x\n\u2028"})
    many.add(logging.WARNING, {"status": 503})
    assert not out.getvalue()
    await asyncio.sleep(0)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first.pop("ts") <= second.pop("ts")
    assert first == {"level": "info", "action": "request", "status": 200, "said": "x\n\u2028"}
    assert second == {"level": "warning", "action": "request", "status": 503}
    many.add(logging.INFO, {"status": 204})
    await asyncio.sleep(0)
    assert json.loads(out.getvalue().splitlines()[2])["status"] == 204


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("text", ["a b", 'a "b" \\', "\u00e9\u2028", "\ud800"])
async def test_a_frequent_event_has_the_line_that_a_record_would_have(
    out: io.StringIO, form: logs.Format, text: str
) -> None:
    logs.setup("info", form, out)
    fields = {"status": 200, "ms": 0.125, "text": text, "none": None, "endless": math.inf}
    logs.Frequent(logging.getLogger("api"), "request").add(logging.INFO, fields)
    await asyncio.sleep(0)
    logging.getLogger("api").info("request", extra={"action": "request", **fields})
    frequent, record = (re.sub(r"\d\d:\d\d:\d\d\.\d+", "", line) for line in out.getvalue().splitlines())
    assert frequent == record


async def test_other_handlers_get_a_record_of_a_frequent_event(
    out: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    logs.setup("info", "json", out)
    logging.getLogger().addHandler(caplog.handler)
    logs.Frequent(logging.getLogger("api"), "request").add(logging.INFO, {"status": 200})
    (record,) = caplog.records
    assert (record.action, record.status) == ("request", 200)  # type: ignore[attr-defined]
    assert json.loads(out.getvalue())["status"] == 200


async def test_what_cannot_be_written_is_reported_and_stops_nothing(
    out: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.setup("info", "json", out)
    out.close()
    logs.Frequent(logging.getLogger("api"), "request").add(logging.INFO, {"status": 200})
    await asyncio.sleep(0)
    assert "I/O operation on closed file" in capsys.readouterr().err


async def test_frequent_events_are_written_in_parts_that_a_pipe_does_not_tear(out: io.StringIO) -> None:
    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            parts.append(text)
            return super().write(text)

    parts: list[str] = []
    logs.setup("info", "json", Stream())
    many = logs.Frequent(logging.getLogger("api"), "request")
    for number in range(100):
        many.add(logging.INFO, {"number": number, "said": "x" * (5000 if number == 50 else 100)})
    await asyncio.sleep(0)
    assert [json.loads(line)["number"] for line in "".join(parts).splitlines()] == list(range(100))
    assert all(part.endswith("\n") for part in parts)
    assert [part.count("\n") for part in parts if len(part) > PIPE_BUF] == [1]
    assert len(parts) < 10
