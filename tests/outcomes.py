"""A plugin of pytest that records what became of each test, where and in which order: `--outcomes FILE`.

    python -m tests.outcomes FILE...

prints what such runs used, together, what none of them ran, and which tests were unstable.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from tests.tools import BINARY, REDIS, TOOL, needed, used, version

# More is not one unlucky test.
MAX_AGAIN = 10


@dataclass(slots=True)
class Outcome:
    """`result` is passed, failed, skipped, xfailed, xpassed, or "" while it runs."""

    process: str
    result: str = ""
    reason: str = ""
    tools: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """`tests` by node id, in the order in which they began; `binaries` by the tool that was used."""

    seed: int | None = None
    options: list[str] = field(default_factory=list)
    tests: dict[str, Outcome] = field(default_factory=dict)
    binaries: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises OSError if the run has not written it."""
        run = cls(**json.loads(path.read_text()))
        run.tests = {name: Outcome(**outcome) for name, outcome in run.tests.items()}  # type: ignore[arg-type]
        return run

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    def failed(self) -> list[str]:
        return [name for name, outcome in self.tests.items() if outcome.result == "failed"]

    def before(self, test: str) -> list[str]:
        """The tests that began before it in its process."""
        process, names = self.tests[test].process, list(self.tests)
        return [name for name in names[: names.index(test)] if self.tests[name].process == process]

    def why_not_again(self) -> str:
        """Why what failed is not run once more; "" if it is."""
        if self.errors:
            return self.errors[0]
        failed = len(self.failed())
        return f"{failed} tests failed, more than {MAX_AGAIN}" if failed > MAX_AGAIN else ""


def counted(runs: Sequence[Run]) -> Counter[str]:
    """How many tests had which result. A test of several runs counts once: skipped only if it ran in none."""
    merged: dict[str, str] = {}
    for run in runs:
        for name, outcome in run.tests.items():
            if merged.get(name) != "failed" and (name not in merged or outcome.result != "skipped"):
                merged[name] = outcome.result
    return Counter(merged.values())


def summary(runs: Sequence[Run]) -> Iterator[str]:
    """The servers and tools that were used, and the tests that were left out in all of these runs."""
    for tool, binaries in sorted({tool: run.binaries[tool] for run in runs for tool in run.binaries}.items()):
        of_all = sorted({*binaries, *(path for run in runs for path in run.binaries.get(tool, ()))})
        yield f"used {tool}: {', '.join(' '.join(filter(None, (path, version(path)))) for path in of_all)}"
    last = {
        name: outcome for run in runs for name, outcome in run.tests.items() if outcome.result == "skipped"
    }
    ran = {name for run in runs for name, outcome in run.tests.items() if outcome.result != "skipped"}
    reasons = Counter(outcome.reason for name, outcome in last.items() if name not in ran)
    yield f"left out: {reasons.total()} tests"
    yield from (f"left out: {number} {reason}" for reason, number in reasons.most_common())


def closing(runs: Sequence[Run]) -> str:
    """The last line, as pytest writes it."""
    counts = counted(runs)
    counts["unstable"] = sum(len(run.unstable) for run in runs)
    kinds = ("failed", "passed", "skipped", "xfailed", "xpassed", "unstable")
    parts = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts[kind])
    return f" {parts or 'no tests ran'} in {sum(run.seconds for run in runs):.2f}s ".center(80, "=")


class Recorder:
    """Runs in the process that reports: with pytest-xdist, the one that runs no test itself."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._path, self._began = path, time.monotonic()
        given = config.option.file_or_dir
        words = [str(word) for word in config.invocation_params.args]
        self.run = Run(options=[word for word in words if word not in given and not word.startswith("@")])
        self._collected: set[str] = set()
        self._crashed: dict[str, bool] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._collected.update(ids)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected.update(item.nodeid for item in session.items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.run.errors.append(f"{report.nodeid or 'a file'} could not be collected")
        elif report.skipped:
            self.run.tests[report.nodeid] = Outcome("", "skipped", _reason(report))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        node = getattr(report, "node", None)
        process = node.gateway.id if node else "main"
        outcome = self.run.tests.setdefault(report.nodeid, Outcome(process))
        for name, value in report.user_properties:
            if name == TOOL:
                outcome.tools.append(str(value))
            elif name == BINARY:
                tool, _, path = str(value).partition(" ")
                known = self.run.binaries.setdefault(tool, [])
                known += [path] if path not in known else []
        if process in self._crashed:
            self._crashed[process] = True
        if outcome.result == "failed":
            return
        if report.failed:
            outcome.result, outcome.reason = "failed", report.longreprtext
        elif report.skipped:
            outcome.result = "xfailed" if hasattr(report, "wasxfail") else "skipped"
            outcome.reason = _reason(report)
            outcome.tools += needed(outcome.reason)
        elif report.when == "call":
            outcome.result = "xpassed" if hasattr(report, "wasxfail") else "passed"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """The report of a crashed process' test, if it ran one, comes after this."""
        if error:
            self._crashed[node.gateway.id] = False

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.run.seconds = time.monotonic() - self._began
        seed = session.config.getoption("randomly_seed", None)  # known once pytest-randomly is configured
        self.run.seed = seed if isinstance(seed, int) else None
        for process, at_a_test in self._crashed.items():
            if not at_a_test:
                self.run.errors.append(f"the process {process} crashed between tests")
        missing = self._collected - self.run.tests.keys()
        if missing and not session.config.option.collectonly:
            self.run.errors.append(f"{len(missing)} tests did not run, such as {min(missing)}")
        self.run.write(self._path)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in summary([self.run]):
            terminalreporter.write_line(line)
        if not self.run.failed() and not self.run.errors:
            terminalreporter.write_line("unstable: none")
        elif why := self.run.why_not_again():
            terminalreporter.write_line(f"What failed is not run again: {why}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    where = report.longrepr
    return str(where[2]).removeprefix("Skipped: ") if isinstance(where, tuple) else ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="write what became of each test to this file")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the tools that the test has used to its report, in the process that runs it."""
    report = yield
    report.user_properties += used()
    if item.get_closest_marker("redis"):
        report.user_properties.append((TOOL, REDIS))
    return report


def pytest_configure(config: pytest.Config) -> None:
    path: Path | None = config.getoption("outcomes")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config, path))


def main(paths: Sequence[str]) -> int:
    """Those that were not written are left out."""
    runs = [Run.read(Path(path)) for path in paths if Path(path).exists()]
    print(*summary(runs), *(line for run in runs for line in run.unstable), closing(runs), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
