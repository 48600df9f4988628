"""What a person meets at the terminal: lists, sentences, exit statuses."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from millrace.__main__ import COMMANDS, command_parsers, main
from model_store import __main__ as model_store


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: millrace {name}" in capsys.readouterr().out


def with_subcommands(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    yield parser
    for action in parser._actions:
        for one in action.choices.values() if isinstance(action.choices, dict) else ():
            yield from with_subcommands(one)


def test_every_help_shows_an_example_that_its_parser_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """None did. Text is broken at 80 columns, which an example does not survive."""
    monkeypatch.setenv("COLUMNS", "80")
    parser, parsers = command_parsers()
    for name in COMMANDS:
        import_module(f"millrace.{name}").add_arguments(parsers[name])
    every = [*with_subcommands(parser), *with_subcommands(model_store._parser())]
    assert len(every) > 35
    for one in every:
        shown = re.search(rf"\nexample:\n  ({re.escape(one.prog)}(?: .+)?)\n", one.format_help())
        assert shown, f"{one.prog} --help"
        one.parse_args(shlex.split(shown[1].removeprefix(one.prog)))


def test_help_keeps_the_case_of_names(capsys: pytest.CaptureFixture[str]) -> None:
    """`millrace key --help` said "Create an api key: `millrace key new name`"."""
    with pytest.raises(SystemExit):
        main(["key", "--help"])
    assert "Create an API key: `millrace key new NAME`." in capsys.readouterr().out


@pytest.mark.parametrize("words", [["up", "--nope"], ["up", "--workers", "x"]])
def test_a_wrong_command_line_ends_with_status_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_mistyped_command_was_answered_with_a_list_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clasify", "reviews.csv"]) == 2
    assert capsys.readouterr().err == "millrace clasify: there is no such command; did you mean classify?\n"
    assert main(["nope"]) == 2
    assert "`millrace --help` lists the commands" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["up", "api", "worker", "jobs"])
def test_a_bad_setting_stops_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_CACHE_TTL_S", "0")
    assert main([command]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"millrace {command}: MILLRACE_CACHE_TTL_S=0 should be greater than or equal to 1.\n"


def test_up_wants_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--workers", "0"]) == 2
    assert capsys.readouterr().err == "millrace up: --workers must be at least 1.\n"


def test_config_tells_values_and_where_they_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://user:hunter2@host:1/0?password=hunter3")
    monkeypatch.setenv("MILLRACE_API_KEYS", "a" * 64)
    monkeypatch.setenv("MILLRACE_LEASE_MS", "1500")
    monkeypatch.setenv("MILLRACE_QUOTAS", "web=5, phone=7")
    monkeypatch.setenv("MILLRACE_MODEL", "default, second=stub")
    assert main(["config", "--json"]) == 0
    rows = {row["variable"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["MILLRACE_REDIS_URL"]["value"] == "redis://********@host:1/0"
    assert rows["MILLRACE_REDIS_URL"]["source"] == "REDIS_URL"
    assert rows["MILLRACE_API_KEYS"]["value"] == "********"
    assert rows["MILLRACE_LEASE_MS"]["value"] == "1500"
    assert rows["MILLRACE_QUOTAS"]["value"] == "web=5, phone=7", "what is parsed is shown as it is written"
    assert rows["MILLRACE_MODEL"]["value"] == "default, second=stub"
    assert rows["MILLRACE_COMPAT"]["value"] == "huggingface,tei,oip,kserve,vllm,openai,fms"
    assert rows["MILLRACE_QUESTIONS"]["value"] == rows["MILLRACE_WEBHOOK_SECRETS"]["value"] == ""
    assert rows["MILLRACE_WINDOW_MS"] == {
        "section": "worker",
        "variable": "MILLRACE_WINDOW_MS",
        "value": "5.0",
        "source": "",
        "unit": "milliseconds",
        "meaning": "Longest wait for more entries after the first one of a batch. "
        "Skipped when waiting does not pay off.",
    }
    assert [name for name, row in rows.items() if not row["meaning"].endswith(".")] == []
    assert main(["config"]) == 0
    printed = capsys.readouterr().out
    assert "hunter" not in printed
    assert "aaaa" not in printed
    assert "1500 milliseconds   (from MILLRACE_LEASE_MS)\n      How long a worker may hold" in printed


def test_help_imports_neither_settings_nor_services() -> None:
    code = (
        "import sys\nfrom millrace.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'pydantic', 'fastapi', 'redis', 'torch', 'asyncio', 'api', 'batcher.settings'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["up", "config"])
def test_commands_that_start_processes_import_none_of_their_insides(command: str) -> None:
    code = (
        f"import sys, millrace.{command}\n"
        "insides = {'api.main', 'fastapi', 'batcher.worker.loop', 'redis', 'model_store', 'torch', 'numpy'}\n"
        "inside = insides & set(sys.modules)\nsys.exit(f'imported: {inside}' if inside else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line with `millrace` in it."""
    line = line.replace("millrace", f"{shlex.quote(sys.executable)} -m millrace", 1)
    return subprocess.run(
        ["sh", "-c", line], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", ["config", "key new web", "--version", "config --help"])
def test_a_full_disk_is_one_sentence(words: str) -> None:
    done = shell(f"millrace {words} > /dev/full", PYTHONUNBUFFERED="")
    name = "millrace" if words.startswith("-") else f"millrace {words.split()[0]}"
    assert (done.returncode, done.stderr) == (2, f"{name}: No space left on device.\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", ["--help", "forget text --help"])
def test_help_that_cannot_be_written_is_not_a_success(words: str) -> None:
    """argparse takes no notice of it where Python does not buffer the output."""
    done = shell(f"millrace {words} > /dev/full", PYTHONUNBUFFERED="1")
    name = "millrace" if words.startswith("-") else f"millrace {words.split()[0]}"
    assert (done.returncode, done.stderr) == (2, f"{name}: No space left on device.\n")


def test_messages_do_not_get_into_the_output_if_standard_error_is_closed() -> None:
    """print() to a closed standard error wrote to the standard output, between the results."""
    done = shell("millrace config 2>&-", MILLRACE_NONSENSE="1")
    assert done.returncode == 2
    assert "unknown setting" not in done.stdout


@pytest.mark.parametrize("words", ["config <&- >&- 2>&-", "status >&-"])
def test_closed_streams_are_no_traceback(words: str) -> None:
    done = shell(f"millrace {words}", MILLRACE_PORT="1")
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)


def test_no_connection_gets_the_number_of_a_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, closed = [], {1, 2}

    def fstat(number: int) -> None:
        if number in closed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("millrace.__main__.os", SimpleNamespace(**vars(os)))
    monkeypatch.setattr("millrace.__main__.os.fstat", fstat)
    monkeypatch.setattr("millrace.__main__.os.open", lambda path, _: opened.append(path))
    assert main(["key", "new", "web"]) == 0
    assert opened == [os.devnull] * 2


def test_a_process_without_a_home_has_one_as_in_a_container(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`millrace up --help` ended with a traceback where neither HOME nor a user's entry names a home."""
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("posixpath.expanduser", lambda path: os.environ.get("HOME", "~") + path[1:])
    with pytest.raises(SystemExit):
        main(["up", "--help"])
    assert "(default: /.local/share/millrace)" in " ".join(capsys.readouterr().out.split())
