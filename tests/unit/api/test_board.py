from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from api.board import Board, Cell, Timer

LABELS = {"route": ("/a", "other"), "status": ("200", "other")}


def series(board: Board) -> tuple[Cell, Timer, Cell]:
    requests = board.declare(
        "counter", "requests", "Requests", {"route": ("/a", "other"), "status": ("200", "other")}
    )
    seconds = board.declare("histogram", "seconds", "Seconds", {"route": ("/a", "other")}, (0.1, 1.0))
    held = board.declare("gauge", "held", "Held")
    return board.cell(requests, "/a", "200"), board.timer(seconds, "/a"), board.cell(held)


def shown(board: Board) -> list[str]:
    registry = CollectorRegistry()
    registry.register(board)
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_counts_are_shown_as_prometheus_knows_them() -> None:
    board = Board()
    requests, seconds, held = series(board)
    requests.add()
    requests.add(2)
    for value in (0.05, 0.1, 0.5, 7.0):
        seconds.observe(value)
    held.set(9)
    assert shown(board) == [
        'requests_total{route="/a",status="200"} 3.0',
        'seconds_bucket{le="0.1",route="/a"} 2.0',
        'seconds_bucket{le="1.0",route="/a"} 3.0',
        'seconds_bucket{le="+Inf",route="/a"} 4.0',
        'seconds_count{route="/a"} 4.0',
        'seconds_sum{route="/a"} 7.65',
        "held 9.0",
    ]


def test_an_unknown_label_value_counts_as_other() -> None:
    board = Board()
    family = board.declare(
        "counter", "requests", "Requests", {"route": ("/a", "other"), "status": ("200", "other")}
    )
    board.cell(family, "/wp-admin", "418").add()
    assert shown(board) == ['requests_total{route="other",status="other"} 1.0']


CHILD = """
import sys
from pathlib import Path
from api.board import Board
from tests.unit.api.test_board import series
requests, seconds, held = series(Board(Path(sys.argv[1])))
requests.add(5); seconds.observe(0.5); held.set(100)
print("counted", flush=True)
sys.stdin.read()
"""


def test_several_processes_are_one_service(tmp_path: Path) -> None:
    board = Board(tmp_path)
    requests, _, held = series(board)
    requests.add()
    held.set(1)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == b"counted\n"
    assert 'requests_total{route="/a",status="200"} 6.0' in shown(board)
    assert "held 101.0" in shown(board)
    timer = next(family for family in board._families if family.kind == "histogram")
    values = [names[0] for names in timer.labels.values()]
    assert sum(board.row(timer, *values)[:-1]) == 1, "one series is summed over processes, too"
    child.stdin.close()
    child.wait(timeout=20)
    child.stdout.close()
    # What it counted stays counted; what it held is gone with it.
    assert 'requests_total{route="/a",status="200"} 6.0' in shown(board)
    assert "held 1.0" in shown(board)
