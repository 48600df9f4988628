"""`millrace sample`: which texts are chosen for labelling, and the file that is written."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace import job_client
from millrace.__main__ import main
from millrace.sample import choose, doubt

ID = "7" * 32
RESULTS = [0.99, 0.52, 0.9, 0.52, 0.6, 0.95, 0.7]
TEXTS = ["sure", "unsure", "rather", "Unsure ", "hardly", "clear", "maybe"]


def _scores(best: float) -> list[dict[str, Any]]:
    return [{"label": "a", "score": best}, {"label": "b", "score": 1 - best}]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((0.5, 0.5), 1.0), ((1.0, 0.0), 0.0), ((0.4, 0.35, 0.25), 0.95), ((0.9, 0.1, 0.45), 0.9), ((0.2,), 0.4)],
)
def test_doubt_is_the_nearness_of_the_best_two_or_of_one_to_a_half(
    scores: tuple[float, ...], expected: float
) -> None:
    assert doubt([{"label": str(n), "score": score} for n, score in enumerate(scores)]) == pytest.approx(
        expected
    )


def test_the_least_certain_different_texts_are_chosen_and_errors_are_left_out() -> None:
    results: list[tuple[str, Any]] = list(zip(TEXTS, map(_scores, RESULTS), strict=True))
    results.append(("broken", {"error": {"code": "too_long"}}))
    assert [text for text, _ in choose(results, 3, at_random=False)] == ["unsure", "hardly", "maybe"]
    assert len(choose(results, 100, at_random=False)) == 6
    some = choose(results, 3, at_random=True)
    assert len({text for text, _ in some}) == 3
    assert some == choose(results, 3, at_random=True)


def _service(request: httpx.Request) -> httpx.Response:
    job = {"id": ID, "status": "finished", "total": len(TEXTS), "done": len(TEXTS), "failed": 0}
    job |= {"error": None, "position": None, "rate": None, "models": []}
    if request.url.path == "/models":
        return httpx.Response(200, json={"models": []})
    lines = {f"/jobs/{ID}/texts": TEXTS, f"/jobs/{ID}/predictions": list(map(_scores, RESULTS))}.get(
        request.url.path
    )
    if lines is not None:
        return httpx.Response(200, text="".join(json.dumps(line) + "\n" for line in lines))
    return httpx.Response(200, json=job)


@pytest.fixture(autouse=True)
def _serve(monkeypatch: pytest.MonkeyPatch) -> None:
    made = httpx.Client
    monkeypatch.setattr(
        job_client.httpx,
        "Client",
        lambda **options: made(**options | {"transport": httpx.MockTransport(_service)}),
    )


@pytest.mark.parametrize("by_job", [True, False])
def test_a_file_to_label_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str], by_job: bool) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    source = ["--job", ID] if by_job else [str(tmp_path / "texts.txt")]
    out = tmp_path / "to-label.csv"
    assert main(["sample", *source, "-n", "2", "-o", str(out)]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["label"], row["score"]) for row in rows] == [
        ("unsure", "", "0.5200"),
        ("hardly", "", "0.6000"),
    ]
    assert rows[0]["predicted"] == "a"
    assert main(["sample", *source, "-o", str(out)]) == 2
    assert "exists, and may have labels" in capsys.readouterr().err


def test_texts_may_come_through_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`<(zcat FILE)` and /dev/stdin were no files, although classify reads them."""
    pipe, out, lines = tmp_path / "texts", tmp_path / "to-label.csv", "\n".join(TEXTS) + "\n"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=[lines], daemon=True).start()
    assert main(["sample", str(pipe), "-n", "2", "-o", str(out)]) == 0
    from_pipe = out.read_bytes()
    out.unlink()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["sample", "-", "-n", "2", "-o", str(out)]) == 0
    assert out.read_bytes() == from_pipe
    assert [line.partition(b",")[0] for line in from_pipe.splitlines()] == [b"text", b"unsure", b"hardly"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "nowhere/out.csv"], "files cannot be created in nowhere"),
        (["-o", "out.csv", "--label-column", "text"], "has a column 'text' already"),
        (["-o", "out.csv", "--label-column", "score"], "has a column 'score' already"),
    ],
)
def test_a_file_that_could_not_be_written_is_refused_before_the_texts_are_classified(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(job_client.JobClient, "find", lambda *_: pytest.fail("the service was asked"))
    assert main(["sample", "--job", ID, *options]) == 2
    assert said in capsys.readouterr().err


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert main(["sample", "--job", ID, "-o", str(tmp_path / "out.csv")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_that_appeared_meanwhile_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have labels: only at the start was there a look for it."""
    out, found = tmp_path / "out.csv", job_client.JobClient.find

    def find(client: job_client.JobClient, number: str) -> job_client.Job:
        out.write_text("labelled")
        return found(client, number)

    monkeypatch.setattr(job_client.JobClient, "find", find)
    assert main(["sample", "--job", ID, "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert said == f"millrace sample: {out} exists, and may have labels: choose another name.\n"
    assert out.read_text() == "labelled"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("number", ["", "../x", "77777777", ID.replace("7", "\u0667")])
def test_what_is_not_an_id_is_not_part_of_a_path(
    number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty one ended with a TypeError, and another path was asked for."""
    assert main(["sample", "--job", number, "-o", str(tmp_path / "out.csv")]) == 2
    said = f"millrace sample: {number!r} is not the id of a job, which has 32 hexadecimal digits.\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("count", [len(TEXTS) - 1, len(TEXTS) + 1])
def test_texts_that_changed_are_said_to_have(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_client.JobClient, "texts", lambda *_: iter(["text"] * count))
    assert main(["sample", "--job", ID, "-o", str(tmp_path / "out.csv")]) == 2
    assert "the texts changed while being classified: repeat the command." in capsys.readouterr().err
