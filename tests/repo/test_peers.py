"""`make peers`: the README's table is a part of the recorded one, and one service hides no other."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import table
from benchmarks.peers.catalogue import NOT_INSTALLED, PEERS
from benchmarks.peers.results import Conditions, Result, comparable, keep, kept
from benchmarks.peers.running import Target

ROOT = Path(__file__).parents[2]
HERE = Conditions("1e91089", "a processor", 2, 30)
FIGURES = {"texts": 1234.4, "requests": 154.3, "med": 20.04, "p99": 40.05, "errors": 0.001}


def result(name: str, when: str = "2026-11-23T13:00:00+00:00", under: Conditions = HERE) -> Result:
    return Result(name, when, under, "1.2", "torch f32", {"new": FIGURES, "known": FIGURES})


def test_the_table_of_the_readme_is_a_part_of_the_recorded_one() -> None:
    recorded = table.written((ROOT / "docs/peers.md").read_text())
    assert table.written((ROOT / "README.md").read_text()) == table.part(recorded)


def test_every_service_is_in_the_recorded_table_or_named_below_it() -> None:
    """A record that lacks one is out of date; between such a change and the next run there is none."""
    recorded = table.written((ROOT / "docs/peers.md").read_text())
    missing = [
        name
        for name in [*peers.NAMES, *NOT_INSTALLED]
        if not any(line.startswith((f"| {name} |", f"- {name}: ")) for line in recorded)
    ]
    assert not (recorded and missing)


def test_every_peer_is_described() -> None:
    described = (ROOT / "docs/peers.md").read_text()
    assert [
        peer.name for peer in PEERS if f"\n| {peer.name} | " not in described.split("how it is set up")[1]
    ] == []


def test_a_table_says_where_it_was_measured_and_what_was_not() -> None:
    lines = table.whole([result("plain"), Result("mosec", "", HERE, reason="it ended")], {"vllm": "for GPUs"})
    assert lines[0] == (
        "a processor, 2 cores, 2026-11-23, commit 1e91089, 30 s per load, load generator on the same cores."
    )
    assert "| plain | 1.2 | torch f32 | 1,234 | 20 | 40 | 154 | 20.0 | 40.0 | 0.1 % |" in lines
    assert lines[-2:] == ["- mosec: it ended", "- vllm: for GPUs"]
    assert table.part(lines)[2:] == [
        "| service | version | new texts/s | p99 ms (new) | requests/s, 95 % known | p99 ms (known) |",
        "|---|---|---|---|---|---|",
        "| plain | 1.2 | 1,234 | 40 | 154 | 40.0 |",
    ]


def test_only_what_is_between_the_markers_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{table.BEGIN}\nold\n{table.END}\n\nafter\n")
    for _ in range(2):
        table.write(page, ["new"])
        assert page.read_text() == f"before\n\n{table.BEGIN}\nnew\n{table.END}\n\nafter\n"
    page.write_text("without markers")
    with pytest.raises(ValueError, match="End of what"):
        table.write(page, ["new"])


def test_results_of_several_runs_of_one_commit_make_one_table(tmp_path: Path) -> None:
    keep(result("plain"), tmp_path)
    keep(result("mosec", "2026-11-23T14:00:00+00:00"), tmp_path)
    keep(result("ray", under=Conditions("0000000", "a processor", 2, 30)), tmp_path)
    found = comparable(kept(tmp_path), ["plain", "mosec", "ray", "bentoml"])
    assert [(each.name, bool(each.loads), each.reason) for each in found] == [
        ("plain", True, ""),
        ("mosec", True, ""),
        ("ray", False, "not run"),
        ("bentoml", False, "not run"),
    ]
    with pytest.raises(ValueError, match="no results"):
        comparable([], ["plain"])


@pytest.mark.parametrize(
    "error", [RuntimeError("it ended: no module"), SystemExit("not ready"), KeyError("texts")]
)
def test_a_service_that_breaks_hides_no_other(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def running(name: str, _: Path):
        if name == "plain":
            raise error
        yield Target("http://localhost", "predictions", "1.2", "torch f32", tmp_path / "log")

    monkeypatch.setattr(peers, "install", lambda peer, _: "no such package" if peer.name == "ray" else "")
    monkeypatch.setattr(peers, "running", running)
    monkeypatch.setattr(peers, "measure", lambda *_: {"new": FIGURES, "known": FIGURES})
    peers.run(["plain", "ray", "mosec"], tmp_path, 1)
    found = {each.name: each for each in kept(tmp_path / "results")}
    assert found["mosec"].loads == {"new": FIGURES, "known": FIGURES}
    assert found["ray"].reason == "no such package"
    assert str(error) in found["plain"].reason
    assert not found["plain"].loads
