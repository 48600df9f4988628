"""The keys of `millrace top`: ? help, / filter, p pause or resume, q quit; and how a terminal gives them."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from millrace.errors import CommandError

if TYPE_CHECKING:
    from millrace.service_client import AdminClient


HELP = "?  help    /  filter workers and jobs by a word    p  pause or resume all work    q  quit"
PAUSE_S = 300
# How often the thread that reads checks whether it should end.
LOOK_S = 0.2
ENTER, ESCAPE, BACKSPACE = "\r\n", "\x1b", "\x7f\b"


class Screen(Protocol):
    """`millrace.top.View`."""

    word: str
    notice: str

    @property
    def paused(self) -> bool: ...


class TopKeys:
    """Changes `screen` with each key. `connect` makes the client that pauses; it needs an operator's key."""

    def __init__(self, screen: Screen, connect: Callable[[], AdminClient]) -> None:
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
            self._attempt("All work has resumed.", self._resume)
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
            self._attempt("All work is paused; p to resume.", self._pause)
        else:
            self._screen.notice = ""

    def _attempt(self, done: str, action: Callable[[], Any]) -> None:
        try:
            action()
            self._screen.notice = done
        except CommandError as error:
            self._screen.notice = str(error)

    def _pause(self) -> None:
        self._connect().request("PUT", "/admin/pauses/all", json={"waiting": "keep", "for_s": PAUSE_S})

    def _resume(self) -> None:
        self._connect().request("DELETE", "/admin/pauses/all")


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
