"""What people read at the terminal when something is wrong, word for word."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from millrace.__main__ import main
from millrace.local.stack import typed
from millrace.service_client import api_address, http_client
from text_files.output import OUTPUTS


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        status = main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    return capsys.readouterr().err


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys).startswith("usage: millrace [-h] [--version] COMMAND ...")


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("up", "--prot", "80"), "millrace up: error: unknown argument --prot; did you mean --port?"),
        (("up", "--xyzzy"), "millrace up: error: unknown argument --xyzzy"),
        (
            ("classify", "x.csv", "--kolumn=a"),
            "millrace classify: error: unknown argument --kolumn=a; did you",
        ),
    ],
)
def test_a_wrong_option_names_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], last: str
) -> None:
    lines = said(capsys, *words).splitlines()
    assert lines[0].startswith(f"usage: millrace {words[0]}")
    assert lines[-1].startswith(last)


@pytest.mark.parametrize("words", [("status",), ("top",), ("trace", "1"), ("classify", "LICENSE")])
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://service:abc", ": Invalid port: 'abc'."),
        ("http://[::1", ": Invalid port: ':1'."),
        ("ftp://service", " is not an address such as http://127.0.0.1:8000."),
        ("http://", " is not an address such as http://127.0.0.1:8000."),
    ],
)
def test_a_malformed_address_is_a_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], url: str, problem: str
) -> None:
    assert said(capsys, *words, "--url", url).splitlines()[-1] == f"millrace {words[0]}: --url {url}{problem}"


def test_an_ipv6_address_of_the_api_gets_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PORT", "80")
    monkeypatch.setenv("MILLRACE_OPEN", "true")
    for host, address in (
        ("::1", "[::1]"),
        ("::", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("api", "api"),
    ):
        monkeypatch.setenv("MILLRACE_HOST", host)
        assert api_address() == f"http://{address}:80"


@pytest.mark.parametrize(
    "words", [("status",), ("predict", "text"), ("classify", "-"), ("sample", "-o", "x", "-")]
)
@pytest.mark.parametrize("variables", [{"MILLRACE_URL": "127.0.0.1:9"}, {"MILLRACE_PORT": "9"}])
def test_commands_asked_different_services_by_default(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    variables: dict[str, str],
) -> None:
    """`status` followed MILLRACE_PORT and `classify` did not; MILLRACE_URL was refused."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("millrace.job_client.FIRST_PATIENCE_S", 0.0)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"text\n")))
    assert main(words) != 0
    assert "nothing listens at http://127.0.0.1:9:" in capsys.readouterr().err


def test_a_proxy_of_the_environment_is_used_except_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    for url, by_proxy in (
        ("localhost:1", False),
        ("127.0.0.1", False),
        ("[::1]:1", False),
        ("api:1", True),
    ):
        with http_client(url, timeout_s=1.0) as client:
            assert client.trust_env is by_proxy, url


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "MILLRACE_WORKERS",
            "2",
            "unknown setting MILLRACE_WORKERS: the number of workers is an option: --workers.",
        ),
        ("MILLRACE_WINDOW_MS", "abc", "MILLRACE_WINDOW_MS=abc must be a number of milliseconds."),
        ("MILLRACE_MAX_TEXTS", "many", "MILLRACE_MAX_TEXTS=many must be a whole number."),
    ],
)  # fmt: skip
def test_config_lists_everything_although_a_variable_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    sentence: str,
) -> None:
    """It said which command lists all settings, and listed none."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setenv("MILLRACE_API_KEYS", "web:" + "a" * 64)
    assert main(["config"]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"millrace config: {sentence}\n"
    assert "MILLRACE_PORT" in printed.out
    assert "MILLRACE_LEASE_MS" in printed.out
    assert "aaaa" not in printed.out


def test_a_model_is_checked_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The reason stood eight lines up inside a JSON line, between "listening" and "stopped"."""
    data = tmp_path / "data"
    words = ("up", "--port", "0", "--data-dir", str(data), "--model")
    assert said(capsys, *words, "gpt2") == (
        "millrace up: the worker cannot start: gpt2 is not a directory, and not default, stub or "
        "org/name@commit either. A model of the Hugging Face Hub is fetched with "
        "`millrace pull ORG/gpt2@main`.\n"
    )
    assert not data.exists()


@pytest.mark.parametrize("options", [("--data-dir", "data"), ("--no-disk",)])
def test_options_of_a_redis_that_is_not_started_are_refused(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    words = ("up", "--port", "0", "--model", "stub", "--redis-url", "redis://127.0.0.1:9/0")
    assert said(capsys, *words, *options) == (
        f"millrace up: {options[0]} applies only to the Redis that `millrace up` starts, but a Redis URL is "
        "set: drop one of the two.\n"
    )


@pytest.mark.parametrize(("command", "url"), [("status", "127.0.0.1:9"), ("status", "http://127.0.0.1:9/")])
def test_a_service_that_does_not_run_is_named_with_a_way_out(
    capsys: pytest.CaptureFixture[str], command: str, url: str
) -> None:
    assert main([command, "--url", url]) == 1
    assert capsys.readouterr().err == (
        f"millrace {command}: nothing listens at http://127.0.0.1:9: start a service with `millrace up`, or "
        "name another with --url.\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("in.csv", "-o", "in.csv"), "in.csv is the input: choose another name, or replace it with --force."),
        (("in.csv", "-o", "o.zip"), f"cannot write .zip files: name the output {', '.join(OUTPUTS)}."),
        (("in.csv", "--delimiter", "ab"), "--delimiter ab is not a single punctuation mark or \\t."),
        ((".",), ". is a directory: name the files in it."),
        (("none.csv",), "file not found: none.csv."),
        (("in.csv", "in.csv"), "several files need a directory for their results: -o DIRECTORY."),
        (("in.csv", "-o", "."), ". is a directory: name a file."),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("millrace.classify.JobClient", None)  # nothing is sent
    (tmp_path / "in.csv").write_text("text\na\n")
    assert said(capsys, "classify", *words) == f"millrace classify: {sentence}\n"


SAME_NAME = (
    "the results of two files would have the same name: classify them one at a time, each with its own -o."
)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "in.csv in-labelled.csv -o .",
            "in-labelled.csv is another input: choose another directory with -o.",
        ),
        (
            "in.csv link.csv -o . --force",
            "in-labelled.csv is another input: choose another directory with -o.",
        ),
        (
            "in.csv link.csv -o links",
            "links/in-labelled.csv is another input: choose another directory with -o.",
        ),
        (
            "link.csv -o in-labelled.csv",
            "in-labelled.csv is the input: choose another name, or replace it with --force.",
        ),
        ("in.csv other.csv -o links", SAME_NAME),
        ("in.csv in.csv -o .", SAME_NAME),
    ],
)
def test_results_replaced_another_file_that_was_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: str,
    sentence: str,
) -> None:
    """Only the name of a single file was compared with that of its results."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("millrace.classify.JobClient", None)
    for name in ("in.csv", "in-labelled.csv", "other.csv"):
        Path(name).write_text("text\na\n")
    Path("link.csv").symlink_to("in-labelled.csv")
    Path("links").mkdir()
    Path("links/in-labelled.csv").symlink_to("../in-labelled.csv")
    Path("links/other-labelled.csv").symlink_to("../in-labelled.csv")
    assert said(capsys, "classify", *words.split()) == f"millrace classify: {sentence}\n"


def test_commands_are_printed_as_they_must_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`millrace` is not on PATH after `make run`."""
    installed = tmp_path / ".venv/bin"
    installed.mkdir(parents=True)
    for name in ("millrace", "rq"):
        (installed / name).write_text("#!/bin/sh\n")
        (installed / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [".venv/bin/millrace", "up"])
    assert [typed("millrace"), typed("rq"), typed("other")] == [".venv/bin/millrace", ".venv/bin/rq", "other"]
    monkeypatch.setattr("sys.argv", ["our tools/millrace", "up"])
    monkeypatch.chdir((tmp_path / ".venv/bin").rename(tmp_path / "our tools").parent)
    assert typed("rq") == "'our tools/rq'"
    monkeypatch.setenv("PATH", str(tmp_path / "our tools"))
    assert typed("millrace") == "millrace"


@pytest.mark.parametrize(
    "words",
    [
        "predict hi --model",
        "predict",
        "compare --model",
        "classify none.csv --model",
        "publish",
        "publish stub@b --model",
        "forget client",
        "forget revision",
        "sample none.csv -o x --label-column",
        "sample none.csv -o x --model",
        "train none.csv -o x --separator",
        "status --url",
    ],
)
def test_a_word_that_is_not_utf8_is_a_sentence(capsys: pytest.CaptureFixture[str], words: str) -> None:
    """Each ended with a UnicodeEncodeError, or with another reason."""
    assert said(capsys, *words.split(), "x\udcff") == f"millrace {words.split()[0]}: x\\xff is not UTF-8.\n"


def test_a_data_directory_that_is_not_utf8_is_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("up", "--port", "0", "--model", "stub", "--data-dir", f"{tmp_path}/d\udcff")
    sentence = f"the data directory {tmp_path}/d\\xff is not UTF-8: choose another with --data-dir."
    assert said(capsys, *words) == f"millrace up: {sentence}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("train none.csv -o x --most-rows 0", "--most-rows must be at least 2."),
        ("train none.csv -o x --threads -1", "--threads must be 0 or more."),
        ("evaluate none.csv --threads -1", "--threads must be 0 or more."),
        ("evaluate none.csv --within nan", "--within must be between 0 and 1."),
        ("publish stub@b --timeout nan", "--timeout must be 0 or more."),
        ("publish stub@b --timeout -1", "--timeout must be 0 or more."),
        ("top --frames -1", "--frames must be 0 or more."),
        ("sample none.csv -o x -n 0", "-n must be at least 1."),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    """Some were replaced by others without a word, some waited for ever."""
    assert said(capsys, *words.split()) == f"millrace {words.split()[0]}: {sentence}\n"


@pytest.mark.parametrize(
    "words",
    [
        "up --data-dir",
        "classify LICENSE -o",
        "classify",
        "sample LICENSE -o",
        "forget text",
        "push",
        "pull a/b@c --to",
        "train LICENSE -o",
        "evaluate LICENSE --artefact-dir",
        "status --api-key-file",
    ],
)
def test_an_empty_path_was_the_current_folder(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert said(capsys, *words.split(), "").endswith(": must not be empty\n")
