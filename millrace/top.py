"""`millrace top`: live statistics of the service in a terminal. `?` lists its keys; q or Ctrl-C ends it."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from millrace.errors import CommandError
from millrace.service_client import AdminClient, Frame, StatsClient, add_client_arguments
from millrace.status import number

BARS = " ▁▂▃▄▅▆▇█"
HISTORY = 60
BATCHES = 8
RETRY_S = 1.0
REASON_STYLES = {"full": "cyan", "window": "green", "idle": "dim", "solo": "red", "bulk": "magenta"}
HELP = "?  help    /  filter workers and jobs by a word    p  pause or resume all work    q  quit"
PAUSE_S = 300
# How often the thread that reads keys checks whether it should end.
LOOK_S = 0.2
ENTER, ESCAPE, BACKSPACE = "\r\n", "\x1b", "\x7f\b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser, StatsClient, AdminClient)
    frames = "stop after this many frames, one a second (default: 0, on q or Ctrl-C)"
    parser.add_argument("--frames", type=int, default=0, help=frames)


def run(args: argparse.Namespace) -> int:
    """Draws the screen until q or Ctrl-C, and survives restarts of the server."""
    if args.frames < 0:
        raise CommandError("--frames must be 0 or more.")
    client = StatsClient.of(args)
    view = View(client.url)
    keys = TopKeys(view, lambda: AdminClient.of(args))
    with Live(view.draw(), auto_refresh=False, screen=not args.frames) as live:

        def press(key: str) -> None:
            keys.press(key)
            live.update(view.draw(), refresh=True)

        with reading(press):
            return _draw(args, client, view, live, keys)


def _draw(args: argparse.Namespace, client: StatsClient, view: View, live: Live, keys: TopKeys) -> int:
    shown = 0
    while not keys.ended:
        try:
            for name, frame in client.frames():
                view.take(name, frame)
                live.update(view.draw(), refresh=True)
                shown += name == "frame"
                if keys.ended or (args.frames and shown >= args.frames):
                    return 0
            view.problem = f"{client.url} closed the stream"
        except CommandError as problem:
            view.problem = str(problem).removesuffix(".")
            if args.frames:
                raise
        live.update(view.draw(), refresh=True)
        time.sleep(RETRY_S)
    return 0


class View:
    """The content of the screen."""

    def __init__(self, url: str) -> None:
        self.problem = ""
        # Only workers and jobs that contain this are shown; and a line at the end of the screen.
        self.word = ""
        self.notice = ""
        self._url = url
        self._frame: Frame | None = None
        self._computed: deque[float] = deque(maxlen=HISTORY)
        self._waiting: deque[float] = deque(maxlen=HISTORY)

    def take(self, name: str, frame: Frame) -> None:
        """Updates the view with one event of the stream."""
        if name == "history":
            self._computed.extend(frame["worked"])
            self._waiting.extend(frame["waiting"])
            return
        self.problem = ""
        self._frame = frame
        self._computed.append(frame["now"]["worked"])
        self._waiting.append(frame["now"]["waiting"])

    @property
    def paused(self) -> bool:
        """Whether an operator has paused some work."""
        return self._frame is not None and bool(self._frame.get("pauses"))

    def draw(self) -> Group:
        if self._frame is None:
            return Group(Text(self.problem or f"connecting to {self._url} ...", style="yellow"))
        frame = _containing(self._frame, self.word)
        parts: list[RenderableType] = [self._head(frame), Text(""), self._figures(frame), Text("")]
        parts += [_workers(frame), Text(""), _batches(frame)]
        if frame["jobs"]:
            parts += [Text(""), _jobs(frame)]
        if self.notice:
            parts += [Text(""), Text(self.notice, style="bold")]
        return Group(*parts)

    def _head(self, frame: Frame) -> RenderableType:
        model = frame["model"]
        head = Text("Millrace  ", style="bold")
        if self.problem:
            head.append(f"{self.problem}; retrying ...", style="bold red")
        elif frame["ready"]:
            head.append("ready", style="bold green")
        else:
            head.append(f"not ready: {frame['reason']}", style="bold yellow")
        for lane, pause in frame.get("pauses", {}).items():
            head.append(f"   {lane} paused for {number(pause['left_s'], 's')}", style="bold yellow")
        if model:
            head.append(
                f"   {model['name']} {model['revision']} {model['engine']} {model['precision']}", style="dim"
            )
        return head

    def _figures(self, frame: Frame) -> Table:
        now = frame["now"]
        table = _table("", "", "last minute")
        lanes = ", ".join(f"{number(lane['entries'])} {name}" for name, lane in frame["lanes"].items())
        table.add_row("waiting", f"{lanes}, {number(frame['in_flight'])} in flight", spark(self._waiting))
        shards = frame.get("shards") or {"count": 1, "up": 1}
        if shards["up"] < shards["count"]:
            table.add_row("shards", f"{shards['up']} of {shards['count']} up")
        table.add_row("computed", f"{number(now['worked'])} texts/s", spark(self._computed))
        share = f", {now['hits'] / now['answered']:.0%} cache hits" if now["answered"] else ""
        refused = f", {number(now['refused'])}/s refused" if now["refused"] else ""
        table.add_row("answered here", f"{number(now['answered'])} texts/s{share}{refused}")
        table.add_row("/predict", f"p50 {number(now['p50_ms'], 'ms')}, p99 {number(now['p99_ms'], 'ms')}")
        return table


def _containing(frame: Frame, word: str) -> Frame:
    """The frame with those workers and jobs whose facts contain `word`."""
    if not word:
        return frame
    kept = {name: [one for one in frame[name] or () if word in str(one)] for name in ("workers", "jobs")}
    return {**frame, **kept}


def spark(values: Sequence[float]) -> str:
    """A sparkline of the values, scaled to the largest one."""
    most = max(values, default=0) or 1
    return "".join(BARS[min(round(value / most * (len(BARS) - 1)), len(BARS) - 1)] for value in values)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def _workers(frame: Frame) -> Table:
    table = _table("worker", "state", "revision", "tokens/s", "texts", "batches")
    for worker in frame["workers"]:
        style = "cyan" if worker["state"] == "busy" else ""
        counts = [number(worker[name]) for name in ("rate", "texts", "batches")]
        table.add_row(worker["id"], worker["state"], worker["revision"], *counts, style=style)
    if not frame["workers"]:
        table.add_row("no workers running", style="red")
    return table


def _batches(frame: Frame) -> Table:
    """The newest batches of all workers, grouped by worker, newest first."""
    table = _table("batch", "texts", "tokens", "closed", "waited", "ran")
    share = max(BATCHES // max(len(frame["workers"]), 1), 1)
    for worker in frame["workers"]:
        for seq, size, tokens, computed, reason, queue_ms, model_ms in reversed(worker["recent"][-share:]):
            padding = f" (+{computed - tokens} padding)" if computed > tokens else ""
            table.add_row(
                f"{worker['id'][-8:]} {seq}",
                f"{size:>3} {'●' * min(size, 24)}",
                f"{tokens}{padding}",
                Text(reason, style=REASON_STYLES.get(reason, "")),
                number(queue_ms, "ms"),
                number(model_ms, "ms"),
            )
    return table


def _jobs(frame: Frame) -> Table:
    table = _table("job", "status", "progress", "", "left")
    for job in frame["jobs"]:
        filled = round(20 * job["done"] / max(job["total"], 1))
        bar = "█" * filled + "░" * (20 - filled)
        left = number(job["remaining_s"], "s") if job["remaining_s"] is not None else ""
        table.add_row(
            job["id"][:8], job["status"], bar, f"{number(job['done'])} of {number(job['total'])}", left
        )
    return table


class TopKeys:
    """Changes `screen` with each key. `connect` makes the client that pauses; it needs an operator's key."""

    def __init__(self, screen: View, connect: Callable[[], AdminClient]) -> None:
        self.ended = False
        self._screen = screen
        self._connect = connect
        self._next: Callable[[str], None] = self._command

    def press(self, key: str) -> None:
        self._next(key)

    def _command(self, key: str) -> None:
        screen = self._screen
        if key == "q":
            self.ended = True
        elif key == "?":
            screen.notice = "" if screen.notice == HELP else HELP
        elif key == "/":
            screen.word, screen.notice, self._next = "", "/", self._letter
        elif key == "p" and screen.paused:
            self._attempt("All work has resumed.", "DELETE")
        elif key == "p":
            screen.notice = f"Pause all work for {PAUSE_S // 60} minutes? Waiting texts are kept. y: yes"
            self._next = self._confirm

    def _letter(self, key: str) -> None:
        """Takes the word to filter by: Enter keeps it, Escape drops it."""
        screen = self._screen
        if key in ENTER or key == ESCAPE:
            screen.word = "" if key == ESCAPE else screen.word
            screen.notice = f"Only what contains {screen.word!r}; / to change" if screen.word else ""
            self._next = self._command
            return
        screen.word = screen.word[:-1] if key in BACKSPACE else screen.word + key * key.isprintable()
        screen.notice = f"/{screen.word}"

    def _confirm(self, key: str) -> None:
        self._next = self._command
        if key == "y":
            pause = {"waiting": "keep", "for_s": PAUSE_S}
            self._attempt("All work is paused; p to resume.", "PUT", json=pause)
        else:
            self._screen.notice = ""

    def _attempt(self, done: str, method: str, **more: Any) -> None:
        try:
            self._connect().request(method, "/admin/pauses/all", **more)
            self._screen.notice = done
        except CommandError as error:
            self._screen.notice = str(error)


@contextlib.contextmanager
def reading(on_key: Callable[[str], None]) -> Iterator[None]:
    """Calls `on_key` in a thread for each key, without waiting for Enter, while it is open.

    If the standard input is not a terminal, it never calls it.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    ended = threading.Event()
    thread = threading.Thread(target=_read, args=(descriptor, on_key, ended), name="keys", daemon=True)
    try:
        tty.setcbreak(descriptor)  # Ctrl-C still interrupts
        thread.start()
        yield
    finally:
        ended.set()
        thread.join()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read(descriptor: int, on_key: Callable[[str], None], ended: threading.Event) -> None:
    while not ended.is_set():
        if select.select([descriptor], [], [], LOOK_S)[0]:
            keys = os.read(descriptor, 64)
            if not keys:
                return
            for key in keys.decode("utf-8", "replace"):
                on_key(key)
