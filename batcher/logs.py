"""Logging for every process: one line per event, JSON for machines or text for a terminal.

Texts to classify are never logged.

Log an event as `log.info("what happened", extra={"action": "request", "status": 200})`. `action` is the type
of the event; the other items of `extra` become separate fields.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Literal, TextIO

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
    handler = logging.StreamHandler(out)
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


def event_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of one line, in their order."""
    event: dict[str, object] = {
        "ts": datetime.fromtimestamp(record.created, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "action": getattr(record, "action", record.name),
    }
    message = record.getMessage()
    if message != event["action"]:
        event["message"] = message
    event.update((key, value) for key, value in vars(record).items() if key not in _STANDARD)
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        event["error"] = type(error).__name__
        event["traceback"] = "".join(traceback.format_exception(error)).rstrip()
    return event


class JsonFormatter(logging.Formatter):
    """Formats {"ts": ..., "level": ..., "action": ..., "message": ..., and the other fields}."""

    _encode = json.JSONEncoder(separators=(",", ":"), default=str).encode

    def format(self, record: logging.LogRecord) -> str:
        return self._encode(event_of(record))


class TextFormatter(logging.Formatter):
    """Formats 2026-01-01 12:00:00.000 INFO  action  message  key=value ..., with the traceback below."""

    def format(self, record: logging.LogRecord) -> str:
        event = event_of(record)
        clock = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        parts = [f"{clock} {record.levelname:<7} {event['action']}"]
        if "message" in event:
            parts.append(_one_line(str(event["message"])))
        parts += (f"{key}={_one_line(str(value))}" for key, value in event.items() if key not in _HEAD)
        trace = event.get("traceback")
        return "  ".join(parts) + (f"\n{trace}" if trace else "")


_HEAD = frozenset({"ts", "level", "action", "message", "traceback"})


def _one_line(value: str) -> str:
    """Escapes line breaks, so that a value cannot forge a log line."""
    return value if value.isprintable() else value.encode("unicode_escape").decode("ascii")
