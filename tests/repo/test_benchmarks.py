"""The benchmarks: results travel over a pipe of their own; a missed goal or a crash is seen at the end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from tokenizers import Tokenizer

from benchmarks import __main__ as suite
from benchmarks import billion
from benchmarks.channel import child_with_channel, run_with_channel
from model_store.prepare import DEFAULT

ROOT = Path(__file__).parents[2]

NOISY = """
import sys
print('{"not": "a result"}', flush=True)
print("Statistics collection 42 %", file=sys.stderr)
from benchmarks import report
report.RESULTS = report.Path(sys.argv[1])
report.goal("figure", float(sys.argv[2]), 2.0)
report.finish("noisy", {})
"""


def noisy(folder: Path, figure: float) -> list[str]:
    """A benchmark that prints to both of its outputs and compares `figure` with a goal of 2."""
    return [sys.executable, "-c", NOISY, str(folder), str(figure)]


@pytest.mark.parametrize(("figure", "status"), [(3.0, 0), (1.0, 1)])
def test_goals_come_over_the_pipe_whatever_is_printed(figure: float, status: int, tmp_path: Path) -> None:
    ended, messages = run_with_channel(noisy(tmp_path, figure))
    assert ended == status
    (goal,) = messages[0]["goals"]
    assert (goal["measured"], goal["met"]) == (figure, status == 0)
    assert json.loads((tmp_path / "noisy.json").read_text())["cores"] >= 1


def test_a_missed_goal_ends_a_benchmark_with_1_also_by_hand(tmp_path: Path) -> None:
    assert subprocess.run(noisy(tmp_path, 1.0), cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 1


def test_a_child_that_is_busy_when_its_parent_fails_is_waited_for(tmp_path: Path) -> None:
    """A build that is cut short would be begun again by every run."""
    built = tmp_path / "built"
    script = f"import sys, time; sys.stdin.read(); time.sleep(0.3); open({str(built)!r}, 'w'); print('built')"
    with (
        pytest.raises(ValueError, match="the parent"),
        child_with_channel([sys.executable, "-c", script], stdin=subprocess.PIPE),
    ):
        raise ValueError("the parent fails")
    assert built.exists()


@pytest.fixture
def run_suite(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Runs scripts as the suite's benchmarks: the status and what was printed."""

    def run(**scripts: str) -> tuple[int, str]:
        for name, script in scripts.items():
            (tmp_path / f"{name}.py").write_text(script)
        commands = {name: [sys.executable, str(tmp_path / f"{name}.py"), str(tmp_path)] for name in scripts}
        real = suite.run
        monkeypatch.setattr(suite, "SUITE", dict.fromkeys(scripts, ()))
        monkeypatch.setattr(suite, "run", lambda name, _: real(name, commands[name]))
        monkeypatch.setattr(sys, "argv", ["benchmarks"])
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        return suite.main(), capfd.readouterr().out

    return run


def test_a_crash_hides_no_later_benchmark_and_fails_the_whole(
    run_suite: Callable[..., tuple[int, str]],
) -> None:
    good = NOISY.replace("float(sys.argv[2])", "3.0")
    status, said = run_suite(crashes="raise SystemExit(3)", good=good)
    assert status == 1
    table = said[said.rindex("bound") :]
    assert "DID NOT FINISH (status 3)" in table
    assert "good: figure" in table
    assert ">= 2" in table


def test_a_suite_whose_goals_are_met_succeeds(run_suite: Callable[..., tuple[int, str]]) -> None:
    status, said = run_suite(good=NOISY.replace("float(sys.argv[2])", "3.0"))
    assert status == 0
    assert "MISSED" not in said


def test_make_bench_runs_benchmarks_that_exist() -> None:
    assert all((ROOT / f"benchmarks/{name}.py").is_file() for name in suite.SUITE)


def test_every_benchmark_feeds_a_figure_in_the_documents() -> None:
    """Those of dialects and of the console's pages fed none. The rest is named there, or used by others."""
    modules = [path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__main__"]
    sources = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *modules]
    text = {path: path.read_text().replace("from benchmarks import ", "benchmarks.") for path in sources}
    unused = [
        module.stem
        for module in modules
        if not any(
            re.search(rf"benchmarks\.{module.stem}\b", text[path]) for path in sources if path != module
        )
    ]
    assert not unused


def test_texts_of_the_billion_have_the_lengths_of_the_public_comparison() -> None:
    """Tokens of the model's own tokenizer: from 50 to 509, 99.4 on average, with a deviation of 59.0."""
    tokenizer = Tokenizer.from_file(str(DEFAULT / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    drawn = billion.lengths(billion.SAMPLE, seed=1)
    texts = list(islice(billion.endless(tokenizer, drawn, seed=2), billion.SAMPLE + 100))
    tokens = [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts)]
    assert tokens == [*drawn, *drawn[:100]]
    assert len(set(texts)) == len(texts)
    assert (min(tokens), max(tokens)) == (50, 509)
    assert fmean(tokens) == pytest.approx(99.4, rel=0.03)
    assert pstdev(tokens) == pytest.approx(59.0, rel=0.1)


@pytest.mark.parametrize(
    ("best", "most", "asked"),
    [
        pytest.param(16, 1024, [16, 32, 24, 20, 18], id="the fewest"),
        pytest.param(150, 1024, [16, 32, 64, 128, 256, 512, 192, 224, 208], id="between"),
        pytest.param(5000, 64, [16, 32, 64, 48, 56, 60], id="more than it may ask"),
        pytest.param(5000, 16, [16], id="no neighbour"),
    ],
)
def test_the_billion_doubles_its_users_and_then_looks_between(best: int, most: int, asked: list[int]) -> None:
    tried: list[int] = []

    def rate(users: int) -> float:
        tried.append(users)
        return min(users, best - (users - best) / 10)

    assert list(billion.search(rate, most)) == tried == asked


def test_a_billion_texts_cost_what_the_public_comparison_says_of_its_rates() -> None:
    assert round(billion.dollars(876, 0.8)) == 254
    assert round(billion.dollars(219, 0.5)) == 634
