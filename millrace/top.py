"""`millrace top`: live statistics of the service in a terminal. `?` lists its keys; q or Ctrl-C ends it."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from millrace.errors import CommandError
from millrace.service_client import ADMIN_KEY_FILE, API_KEY_FILE, AdminClient, Frame, StatsClient
from millrace.service_client import add_arguments as add_client_arguments
from millrace.status import number
from millrace.top_keys import TopKeys, reading

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.table import Table

BARS = " ▁▂▃▄▅▆▇█"
HISTORY = 60
BATCHES = 8
RETRY_S = 1.0
REASON_STYLES = {"full": "cyan", "window": "green", "idle": "dim", "solo": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_client_arguments(parser, API_KEY_FILE, ADMIN_KEY_FILE)
    frames = "stop after this many frames, one a second (default: 0, on q or Ctrl-C)"
    parser.add_argument("--frames", type=int, default=0, help=frames)


def run(args: argparse.Namespace) -> int:
    """Draws the screen until q or Ctrl-C, and survives restarts of the server."""
    client = StatsClient.of(args)
    try:
        from rich.live import Live
    except ImportError:
        raise CommandError("the package rich is missing: pip install 'millrace-server[cli]'.") from None
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
        from rich.console import Group
        from rich.text import Text

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
        from rich.text import Text

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
    from rich.table import Table

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
    from rich.text import Text

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
