"""What `millrace classify` reads and writes, with a client whose jobs are finished at once."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from millrace import classify
from millrace.__main__ import main
from millrace.job_client import JobClient
from tests.unit.text_files.typed_files import pa, parquet, table_of
from text_files.source import TextFile

RESULT = [{"label": "POSITIVE", "score": 0.9}, {"label": "NEGATIVE", "score": 0.1}]


class FinishedJobs(JobClient):
    def submit(self, source: TextFile) -> dict[str, Any]:
        total = len(list(source.texts()))
        labels = [{"label": "POSITIVE", "texts": total}]
        return {"id": "1", "status": "finished", "total": total, "failed": 0, "labels": labels}

    def follow(self, job: dict[str, Any], source: TextFile | None = None) -> dict[str, Any]:
        return job

    def results(self, job: dict[str, Any], source: TextFile | None = None) -> Iterator[Any]:
        return repeat(RESULT, job["total"])

    def delete(self, job: dict[str, Any]) -> None:
        pass


@pytest.fixture(autouse=True)
def finished_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "JobClient", FinishedJobs)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("good\nbad\n")
    return path


class PipeReader(threading.Thread):
    """Reads a named pipe to its end."""

    def __init__(self, pipe: Path) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.text = ""

    def run(self) -> None:
        self.text = self._pipe.read_text()


def test_a_pipe_gets_the_results_and_stays_a_pipe(source: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = PipeReader(pipe)
    reading.start()
    assert main(["classify", str(source), "-o", str(pipe)]) == 0
    reading.join(10)
    assert [row["label"] for row in csv.DictReader(io.StringIO(reading.text))] == ["POSITIVE"] * 2
    assert pipe.is_fifo()
    assert set(tmp_path.iterdir()) == {source, pipe}


def test_a_link_stays_a_link_and_its_file_is_replaced(source: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    assert main(["classify", str(source), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert target.read_text().startswith("text,label,score,error")


def test_rows_that_changed_places_got_the_labels_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only their number was compared with that of the results."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("id,text\n1,good\n2,bad\n")

    def sorted_meanwhile(self: JobClient, job: dict[str, Any], source: TextFile) -> dict[str, Any]:
        source.path.write_text("id,text\n2,bad\n1,good\n")
        return job

    monkeypatch.setattr(FinishedJobs, "follow", sorted_meanwhile)
    assert main(["classify", str(source), "-o", str(out)]) == 2
    assert f"{source} changed while it was being read: repeat the command" in capsys.readouterr().err
    assert not out.exists()


def test_the_last_line_says_what_was_done(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended without a word."""
    out = tmp_path / "out.csv"
    assert main(["classify", str(source), "-o", str(out)]) == 0
    assert re.fullmatch(
        rf"2 predictions: 2 POSITIVE; \d+\.\d s -> {re.escape(str(out))}",
        capsys.readouterr().err.splitlines()[-1],
    )


@pytest.mark.parametrize(
    ("more", "summary"),
    [
        (
            {"labels": [{"label": label, "texts": 1000 - at} for at, label in enumerate("abcdef")]},
            "5,999 predictions: 1,000 a, 999 b, 998 c, 997 d, 996 e, 1,009 others; ",
        ),
        ({}, "5,999 predictions; "),
    ],
)
def test_the_last_line_adds_up_rare_labels(
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    more: dict[str, Any],
    summary: str,
) -> None:
    """An earlier version of the service does not count labels."""
    job = {"id": "1", "status": "finished", "total": 6001, "failed": 2, **more}
    monkeypatch.setattr(FinishedJobs, "submit", lambda *_: job)
    monkeypatch.setattr(FinishedJobs, "results", lambda *_: repeat(RESULT, 2))
    assert main(["classify", str(source)]) == 1
    assert capsys.readouterr().err.splitlines()[-2].startswith(summary)


def test_a_file_of_the_users_was_replaced_by_what_is_written_first(source: Path, tmp_path: Path) -> None:
    own = tmp_path / "out.csv.part"
    own.write_text("own")
    assert main(["classify", str(source), "-o", str(tmp_path / "out.csv")]) == 0
    assert own.read_text() == "own"


def test_texts_may_come_through_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "texts"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=["good\nbad\n"], daemon=True).start()
    assert main(["classify", str(pipe)]) == 0
    said = capsys.readouterr()
    assert [row["text"] for row in csv.DictReader(io.StringIO(said.out))] == ["good", "bad"]
    assert said.err.startswith(f"{pipe}: ")


def test_a_file_that_cannot_be_read_is_an_error(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Path.open

    def refused(path: Path, *args: Any, **more: Any) -> Any:
        if path == source:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **more)

    monkeypatch.setattr(Path, "open", refused)
    assert main(["classify", str(source)]) == 2
    assert capsys.readouterr().err == f"millrace classify: {source} cannot be read: Permission denied.\n"


def test_names_that_the_system_refuses_are_an_error(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / ("a" * 300)
    for words in ([str(long)], [str(source), "-o", f"{long}.csv"], [str(source), "-o", str(long)]):
        assert main(["classify", *words]) == 2
        assert capsys.readouterr().err.endswith(": File name too long.\n")


def test_an_output_that_cannot_be_written_is_an_error_before_the_job(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FinishedJobs, "submit", None)
    out = tmp_path / "missing" / "out.csv"
    assert main(["classify", str(source), "-o", str(out)]) == 2
    assert capsys.readouterr().err == f"millrace classify: cannot write {out}: No such file or directory.\n"


def test_a_closed_standard_input_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    for words in (["classify", "-"], ["forget", "text", "-", "--url", "127.0.0.1:1"]):
        assert main(words) == 2
        assert capsys.readouterr().err.endswith(": standard input is closed: name a file.\n")


def test_a_pipe_that_does_not_fit_on_the_disk_says_where_another_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good\n")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert main(["classify", "-"]) == 2
    said = "standard input cannot be copied to a temporary file: No such file or directory; set TMPDIR to"
    assert said in capsys.readouterr().err


def test_standard_input_is_not_a_file_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-").write_text("from the file\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from standard input\n")))
    assert main(["classify", "-"]) == 0
    assert "from standard input" in capsys.readouterr().out


def test_half_a_surrogate_pair_in_another_field_is_written_as_it_came(tmp_path: Path) -> None:
    source, out = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    source.write_text('{"text": "good", "by": "\\ud83d"}\n{"text": "b\u00e4d", "by": "x"}\n')
    assert main(["classify", str(source), "-o", str(out)]) == 0
    first, second = out.read_text().splitlines()
    assert json.loads(first) == {"text": "good", "by": "\ud83d", "prediction": RESULT}
    assert "b\u00e4d" in second


def test_what_a_table_cannot_hold_is_an_error_that_says_what_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.ndjson", tmp_path / "out.csv"
    source.write_text('{"text": "good", "by": "\\ud83d"}\n')
    assert main(["classify", str(source), "-o", str(out)]) == 2
    assert "cannot write '\\ud83d' as utf-8: write NDJSON to a file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_the_first_rows_are_printed_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.csv"
    source.write_text("id;body\n1;good\n2;bad\n")

    def refuse(jobs: FinishedJobs, source: TextFile) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(FinishedJobs, "submit", refuse)
    main(["classify", str(source), "--column", "body"])
    said = capsys.readouterr().err.splitlines()
    assert said[:4] == [
        f"{source}: CSV, separated by semicolons, UTF-8",
        "    id | body *",
        "    1  | good",
        "    2  | bad",
    ]
    assert said[4].startswith("Texts are in the column with *. --column, --format")


def test_a_file_without_a_header_is_read_with_the_options_that_the_message_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It named --no-header alone, or always column 2."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("a long text, they say;ham;1\nanother long text;ham;2\n")
    assert main(["classify", str(source), "-o", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.endswith("Choose one with --column, or read it with --no-header --column 1.\n")
    assert main(["classify", str(source), "-o", str(out), "--no-header", "--column", "1"]) == 0
    assert out.read_text().startswith("a long text, they say;ham;1;POSITIVE;")
    source = tmp_path / "in.txt"
    source.write_text("1\tgood one\n2\tbad one\n")
    assert main(["classify", str(source), "-o", str(out)]) == 0
    assert "without a header (--no-header --column 2)." in capsys.readouterr().err


def test_parquet_is_not_written_to_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.parquet"
    source.write_bytes(parquet(pa.table({"text": ["good"]})))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["classify", str(source)]) == 2
    assert "Parquet is not for a terminal: name a file with -o." in capsys.readouterr().err
    out = tmp_path / "out.parquet"
    assert main(["classify", str(source), "-o", str(out)]) == 0
    assert table_of(out.read_bytes()).to_pylist() == [
        {"text": "good", "label": "POSITIVE", "score": 0.9, "error": None}
    ]


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    source, out = tmp_path / "in\udcff.txt", tmp_path / "out\udcff.csv"
    source.write_text("good\n")
    assert main(["classify", str(source), "-o", str(out)]) == 0
    assert out.read_text().startswith("text,label,score,error\ngood,POSITIVE")
