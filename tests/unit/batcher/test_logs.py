from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

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
