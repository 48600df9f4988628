"""The commands in the shell blocks of the documents: each exists, and `millrace` takes its arguments."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator

import pytest

from millrace.__main__ import COMMANDS, main
from tests.repo.test_docs import ROOT, tracked

_SEPARATORS = frozenset(("|", "||", "&", "&&", ";"))
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_assignment = re.compile(r"[A-Z_]+=.*").fullmatch


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without variables in front, redirections and comments."""
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        words: list[str] = []
        for word in [*reader, ";"]:
            if word not in _SEPARATORS:
                words.append(word)
                continue
            while words and _assignment(words[0]):
                words.pop(0)
            end = next((at for at, one in enumerate(words) if one[0] in "<>"), len(words))
            if words[:end]:
                yield words[:end]
            words = []


DOCUMENTED = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}")
    for page in tracked("*.md")
    for block in _BLOCK.findall(page.read_text())
    for words in commands(block)
]


def test_there_are_commands_of_each_kind() -> None:
    kinds = {param.values[0][0] for param in DOCUMENTED if isinstance(param.values[0], list)}
    assert {"millrace", "make", "python", "curl", "scripts/deploy"} <= kinds


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_documented_command_exists(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    match words:
        case ["millrace", name, *_]:
            assert name in COMMANDS
            monkeypatch.setattr(importlib.import_module(f"millrace.{name}"), "run", lambda args: 0)
            assert main(words[1:]) == 0
        case ["make", *targets]:
            known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            assert {target for target in targets if "=" not in target} <= known
        case ["python" | "python3", "-m", module, *_]:
            assert importlib.util.find_spec(module) is not None
        case [script, *_] if script.startswith("scripts/"):
            assert os.access(ROOT / script, os.X_OK)
