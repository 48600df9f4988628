"""Which tests run which lines and scripts, so that a mutant meets only those that could notice it.

As a plugin of pytest it writes this into the directory `MUTATION_RECORDS`, one file for each process.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import coverage
import pytest
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from tests.mutation.mutants import LUA, ROOT, Mutant

RECORDS = "MUTATION_RECORDS"
# What any test costs beside its own seconds.
SETUP_S = 0.05
MEASURED = ("api", "batcher", "model_store", "client/millrace_client")
PACKAGES = {folder: folder.removesuffix("/lua").replace("/", ".") for folder in LUA}


class Recorder:
    """Records, for each test of this process, how long it takes, its lines of the product and its scripts."""

    def __init__(self, folder: Path, process: str) -> None:
        self._file = folder / f"{process}.json"
        here = Path.cwd()
        self._coverage = coverage.Coverage(data_file=None, source=[str(here / one) for one in MEASURED])
        self._here = here
        self._seconds: dict[str, float] = defaultdict(float)
        self._scripts: dict[str, set[str]] = defaultdict(set)
        self._test = ""

    def start(self) -> None:
        self._coverage.start()
        eval_script: Callable[..., Any] = ScriptingCommandsMixin.eval

        def recorded(socket: Any, script: bytes, *args: Any) -> Any:
            self._scripts[hashlib.sha1(script, usedforsecurity=False).hexdigest()].add(self._test)
            return eval_script(socket, script, *args)

        ScriptingCommandsMixin.eval = recorded

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._test = item.nodeid
        self._coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        lines = {
            os.path.relpath(file, self._here): {
                line: [test for test in tests if test]
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        scripts = {digest: sorted(filter(None, tests)) for digest, tests in self._scripts.items()}
        self._file.write_text(json.dumps({"seconds": self._seconds, "lines": lines, "scripts": scripts}))


def pytest_configure(config: pytest.Config) -> None:
    process = os.environ.get("PYTEST_XDIST_WORKER", "")
    if process and RECORDS in os.environ:
        recorder = Recorder(Path(os.environ[RECORDS]), process)
        config.pluginmanager.register(recorder)
        recorder.start()


@dataclass(frozen=True)
class Covering:
    """What the tests of the unedited code run: `lines` by file, `scripts` by digest; `seconds` by test."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, set[str]]]
    scripts: dict[str, set[str]]

    @cached_property
    def sizes(self) -> Counter[str]:
        """How many lines each test runs."""
        return Counter(test for lines in self.lines.values() for tests in lines.values() for test in tests)

    @classmethod
    def read(cls, folder: Path) -> Covering:
        """Adds up what all processes have recorded."""
        covering = cls({}, defaultdict(partial(defaultdict, set)), defaultdict(set))
        for path in sorted(folder.glob("*.json")):
            record = json.loads(path.read_text())
            covering.seconds.update(record["seconds"])
            for file, lines in record["lines"].items():
                for line, tests in lines.items():
                    covering.lines[file][int(line)].update(tests)
            for digest, tests in record["scripts"].items():
                covering.scripts[digest].update(tests)
        return covering

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that run the edited line, or script: first the short ones that run few other lines.

        Those of the whole file if none runs the line, because it runs when the module is imported; those of
        its package if none runs any line of the file, which then has declarations only.
        """
        if mutant.file.endswith(".lua"):
            found = set().union(*(self.scripts.get(digest, ()) for digest in digests(mutant)))
        else:
            number, _, _ = mutant.place()
            lines = self.lines.get(mutant.file, {})
            found = lines.get(number) or set().union(*lines.values())
            if not found:
                package = mutant.file.rpartition("/")[0] + "/"
                beside = (lines for file, lines in self.lines.items() if file.startswith(package))
                found = set().union(*(tests for lines in beside for tests in lines.values()))
        return sorted(found, key=self._breadth)

    def _breadth(self, test: str) -> tuple[float, str]:
        return (self.seconds.get(test, 0.0) + SETUP_S) * self.sizes[test], test


def digests(mutant: Mutant) -> Iterator[str]:
    """Of the scripts that contain the edited line: one, or those that use the edited definition."""
    from batcher.connection.scripts import call, lua_source, script_source

    folder, _, name = mutant.file.rpartition("/")
    package = PACKAGES[folder]
    _, edited, _ = mutant.place()
    every = sorted(path.stem for path in (ROOT / folder).glob("*.lua") if path.stem != "common")
    for script in every if name == "common.lua" else [name.removesuffix(".lua")]:
        source = script_source(script, package)
        own = lua_source(script, package)
        if name != "common.lua" or edited in source[: len(source) - len(own)]:
            yield call(script, True, package)[1]
