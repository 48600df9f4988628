"""What the processes of a local service are started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.local import stack


@pytest.mark.parametrize(
    ("visible", "devices", "dealt"),
    [
        (None, 0, [None, None, None]),
        (None, 1, [None, None, None]),
        (None, 2, ["0", "1", "0"]),
        ("3,5", 8, ["3", "5", "3"]),
        ("GPU-1f,GPU-2e,GPU-3d", 8, ["GPU-1f", "GPU-2e", "GPU-3d"]),
        ("1", 8, [None, None, None]),
        ("", 8, [None, None, None]),
    ],
)
def test_cards_are_dealt_out_to_the_workers(
    visible: str | None,
    devices: int,
    dealt: list[str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All workers of a machine used its first card."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for number in range(devices):
        (tmp_path / f"nvidia{number}").touch()
    (tmp_path / "nvidiactl").touch()
    found = [stack._card(number, tmp_path).get("CUDA_VISIBLE_DEVICES") for number in range(3)]
    assert found == dealt
