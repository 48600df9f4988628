"""Logging for every process: one line per event, JSON for machines or text for a terminal.

Texts to classify are never logged.

Log an event as `log.info("what happened", extra={"action": "request", "status": 200})`. `action` is the type
of the event; the other items of `extra` become separate fields.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from select import PIPE_BUF
from typing import Literal, NamedTuple, TextIO

from pydantic_core import to_json

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["json", "text", "auto"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "action",
    "color_message",
}


def setup(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Sends all logs of this process to `stream` (default: stderr). Calling it again replaces the setup."""
    out = stream or sys.stderr
    chosen = ("text" if out.isatty() else "json") if format == "auto" else format
    handler = Handler(out)
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What no line shows, and costs as much as the line: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    # Libraries log every connection and every job at INFO; show that only at DEBUG.
    for chatty in ("uvicorn", "uvicorn.error", "rq", "httpx", "asyncio"):
        logger = logging.getLogger(chatty)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level.upper() if level in ("debug", "error") else "WARNING")
    logging.captureWarnings(True)


class Event(NamedTuple):
    """What a line says: when (seconds since 1970), how important, of which type, in words and in fields."""

    created: float
    level: str
    action: str
    message: str
    fields: Mapping[str, object]


def event_of(record: logging.LogRecord) -> Event:
    """What the line of a record says."""
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields["error"] = type(error).__name__
        fields["traceback"] = "".join(traceback.format_exception(error)).rstrip()
    action = getattr(record, "action", record.name)
    return Event(record.created, record.levelname, action, record.getMessage(), fields)


class Formatter(logging.Formatter):
    """Formats events, those of records among them."""

    def line(self, event: Event, *, plain: bool = False) -> str:
        """The line of an event. `plain`: all values are strings, numbers or None."""
        raise NotImplementedError

    def format(self, record: logging.LogRecord) -> str:
        return self.line(event_of(record))


class JsonFormatter(Formatter):
    """Formats {"ts": ..., "level": ..., "action": ..., "message": ..., and the other fields}."""

    _encode = json.JSONEncoder(separators=(",", ":"), default=str).encode

    def line(self, event: Event, *, plain: bool = False) -> str:
        head = {"ts": _utc(int(event.created * 1e3)), "level": event.level.lower(), "action": event.action}
        if event.message != event.action:
            head["message"] = event.message
        values = {**head, **event.fields}
        if plain:  # in a quarter of the time, unless a character must be escaped
            with suppress(ValueError):
                return to_json(values).decode("ascii")
        return self._encode(values)


@lru_cache(1)
def _utc(ms: int) -> str:
    """A time in ms since 1970 as in 2026-01-01T12:00:00.000Z. Events that are logged together share most."""
    return datetime.fromtimestamp(ms / 1e3, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(Formatter):
    """Formats 2026-01-01 12:00:00.000 INFO  action  message  key=value ..., with the traceback below."""

    def line(self, event: Event, *, plain: bool = False) -> str:
        clock = datetime.fromtimestamp(event.created).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        parts = [f"{clock} {event.level:<7} {event.action}"]
        if event.message != event.action:
            parts.append(_one_line(event.message))
        fields = {key: value for key, value in event.fields.items() if key != "traceback"}
        parts += (f"{key}={_one_line(str(value))}" for key, value in fields.items())
        trace = event.fields.get("traceback")
        return "  ".join(parts) + (f"\n{trace}" if trace else "")


class Handler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream."""

    def write(self, events: Iterable[Event]) -> None:
        """Writes the lines of several events at once. Never raises, as `emit`."""
        formatter = self.formatter
        assert isinstance(formatter, Formatter)
        self.acquire()
        try:
            for lines in _whole_lines(formatter.line(event, plain=True) for event in events):
                self.stream.write(lines)
                self.flush()
        except Exception:
            self.handleError(logging.makeLogRecord({}))
        finally:
            self.release()


def _whole_lines(lines: Iterable[str]) -> Iterator[str]:
    """Parts that a pipe takes as a whole, for other processes may write to it as well."""
    part, size = "", 0
    for line in lines:
        length = len(line.encode(errors="replace")) + 1
        if part and size + length > PIPE_BUF:
            yield part
            part, size = "", 0
        part += line + "\n"
        size += length
    yield part


class Frequent:
    """Logs events of one type, of which there may be thousands a second: those of a tick in one write.

    A record for each would take several times as long. They get one where `setup` has not made the handler.
    """

    def __init__(self, logger: logging.Logger, action: str) -> None:
        self._logger = logger
        self._action = action
        self._waiting: list[tuple[float, int, Mapping[str, object]]] = []

    def add(self, level: int, fields: Mapping[str, object]) -> None:
        """Logs an event at the end of this tick of the event loop. Values are strings, numbers or None."""
        handlers = logging.root.handlers
        if len(handlers) != 1 or not isinstance(handler := handlers[0], Handler):
            self._logger.log(level, self._action, extra={"action": self._action, **fields})
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write, handler)
        self._waiting.append((time.time(), level, fields))

    def _write(self, handler: Handler) -> None:
        waiting, self._waiting = self._waiting, []
        said = self._action, self._action
        handler.write(
            [Event(at, logging.getLevelName(level), *said, fields) for at, level, fields in waiting]
        )


def _one_line(value: str) -> str:
    """Escapes line breaks, so that a value cannot forge a log line."""
    return value if value.isprintable() else value.encode("unicode_escape").decode("ascii")
