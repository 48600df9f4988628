"""What the words of every command line are: text in UTF-8, except names of files, which are never empty."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from millrace.errors import CommandError, saying
from text_files.decoding import is_unicode, readable


class FileName(str):
    """A file that a command names, or "-", as it was typed: it may have any bytes."""

    __slots__ = ()

    def __new__(cls, word: str) -> FileName:
        if not word:
            raise argparse.ArgumentTypeError("must not be empty")
        return super().__new__(cls, word)


def path(word: str) -> Path:
    """A path, which is not the current folder if it is empty."""
    return Path(FileName(word))


class Parser(argparse.ArgumentParser):
    """Reads every `Path` as `path`, and reports that its help cannot be written, unlike argparse."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register("type", Path, path)

    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)


def check_words(args: argparse.Namespace) -> None:
    """Raises CommandError for a word that is neither UTF-8 nor the name of a file."""
    for value in vars(args).values():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not isinstance(word, FileName) and not is_unicode(word):
                raise CommandError(f"{readable(word)} is not UTF-8.")


def read_text(file: str) -> str:
    """The content of a file or, as "-", of standard input, without a byte order mark. Raises CommandError."""
    if file == "-" and sys.stdin is None:
        raise CommandError("standard input is closed: name a file.")
    name = "standard input" if file == "-" else file
    with saying(f"{name} cannot be read"):
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError(f"{name} is not UTF-8: save the text in this encoding.") from None
