"""A wrong setting stops the start with one sentence that names it."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from batcher.settings import JobSettings, QueueSettings, WorkerSettings
from millrace.errors import CommandError
from millrace.settings_loader import (
    SECTIONS,
    check_port,
    known_variables,
    load_settings,
    own_fields,
    variables,
)


def sentence(kind: type[QueueSettings] = QueueSettings, **flags: object) -> str:
    with pytest.raises(CommandError) as caught:
        load_settings(kind, **flags)
    assert caught.value.status == 2
    said = str(caught.value)
    assert said.endswith((".", "?"))
    assert "\n" not in said
    return said


def test_an_unknown_variable_is_named_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LEASE", "2000")
    assert sentence() == "unknown setting MILLRACE_LEASE: did you mean MILLRACE_LEASE_MS?"


def test_an_unknown_variable_like_no_other_points_to_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_XYZZY", "1")
    assert sentence() == "unknown setting MILLRACE_XYZZY; `millrace config` lists all settings."


def test_a_setting_of_another_process_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_MAX_TEXTS", "7")
    assert load_settings(WorkerSettings).name == "default"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MILLRACE_LEASE_MS", "3", "MILLRACE_LEASE_MS=3 should be greater than or equal to 200."),
        ("MILLRACE_LEASE_MS", "soon", "MILLRACE_LEASE_MS=soon must be a whole number of milliseconds."),
        ("MILLRACE_LEASE_MS", "3\n4", r"MILLRACE_LEASE_MS='3\n4' must be a whole number of milliseconds."),
        ("MILLRACE_MAX_TEXTS", "9" * 20, f"MILLRACE_MAX_TEXTS={'9' * 20} should be less than"),
        ("MILLRACE_MAX_BUDGET_S", "inf", "MILLRACE_MAX_BUDGET_S=inf should be a finite number"),
        ("MILLRACE_MAX_BUDGET_S", "1e300", "MILLRACE_MAX_BUDGET_S=1e300 should be less than"),
        ("millrace_lease_ms", "3", "MILLRACE_LEASE_MS=3 should be greater"),
        (
            "MILLRACE_LOG_LEVEL",
            "loud",
            "MILLRACE_LOG_LEVEL=loud should be 'debug', 'info', 'warning' or 'error'.",
        ),
        ("MILLRACE_NAME", "a b", "MILLRACE_NAME=a b should match pattern"),
        ("MILLRACE_REDIS_URL", "http://x", "MILLRACE_REDIS_URL: must begin with redis://"),
        ("REDIS_URL", "x", "REDIS_URL: must begin with redis://"),
        ("MILLRACE_CACHE_URL", "memcached://x", "MILLRACE_CACHE_URL: must begin with redis://"),
        ("MILLRACE_JOBS_REDIS_URL", "x", "MILLRACE_JOBS_REDIS_URL: must begin with redis://"),
        ("MILLRACE_REDIS_URL", "redis://a:1,redis://b:2", "MILLRACE_REDIS_URL: the host and port"),
        (
            "MILLRACE_REDIS_URL",
            "redis://a redis://b:99999",
            "MILLRACE_REDIS_URL: the host and port",
        ),
        ("MILLRACE_REDIS_URL", "redis+cluster://a:1,b:x", "MILLRACE_REDIS_URL: the host and port"),
        ("MILLRACE_REDIS_URL", "redis+sentinel://[a/s", "MILLRACE_REDIS_URL: the host and port"),
        ("MILLRACE_REDIS_URL", "redis+sentinel://a/s/x", "MILLRACE_REDIS_URL: a database is a number"),
        ("MILLRACE_REDIS_URL", "redis://a/x", "MILLRACE_REDIS_URL: a database is a number"),
        ("MILLRACE_REDIS_URL", "redis://a?db=x", "MILLRACE_REDIS_URL: a database is a number"),
        ("MILLRACE_REDIS_URL", "unix:///a.sock?db=x", "MILLRACE_REDIS_URL: a database is a number"),
        (
            "MILLRACE_REDIS_URL",
            "redis://a?foo=1",
            "MILLRACE_REDIS_URL: a redis:// URL does not support option foo",
        ),
        ("MILLRACE_REDIS_URL", "redis://a?ssl_cert_reqs=none", "MILLRACE_REDIS_URL: a redis:// URL does not"),
        ("MILLRACE_REDIS_URL", "rediss://a?ssl_ca=x", "MILLRACE_REDIS_URL: a rediss:// URL does not"),
        (
            "MILLRACE_REDIS_URL",
            "redis://:12?a=b@c",
            "MILLRACE_REDIS_URL: a redis:// URL does not support this option",
        ),
        (
            "MILLRACE_REDIS_URL",
            "unix://run/redis.sock",
            "MILLRACE_REDIS_URL: a unix:// URL needs the whole path",
        ),
        (
            "MILLRACE_REDIS_URL",
            "unix://",
            "MILLRACE_REDIS_URL: a unix:// URL needs the whole path of a socket",
        ),
        ("MILLRACE_REDIS_URL", "redis://a?socket_timeout=x", "MILLRACE_REDIS_URL: x is not a number"),
        ("MILLRACE_REDIS_URL", "", "MILLRACE_REDIS_URL is empty: give it a value, or leave it out for its"),
        ("MILLRACE_HOST", "", "MILLRACE_HOST is empty: give it a value, or leave it out for its default."),
        ("MILLRACE_CACHE_URL", "redis://a redis://b", "MILLRACE_CACHE_URL: "),
        ("MILLRACE_TRUST_PROXY", "true", "MILLRACE_TRUST_PROXY=true: must be addresses or networks"),
        ("MILLRACE_TRUST_PROXY", "::/0", "MILLRACE_TRUST_PROXY=::/0: must not match every address"),
        ("MILLRACE_SERVICE_HOST", "10.0.0.1", "MILLRACE_SERVICE_HOST comes from a Kubernetes service link"),
        (
            "MILLRACE_API_PORT_80_TCP_ADDR",
            "10.0.0.1",
            "MILLRACE_API_PORT_80_TCP_ADDR comes from a Kubernetes",
        ),
        ("MILLRACE_PORT", "tcp://10.0.0.1:80", "MILLRACE_PORT comes from a Kubernetes service link"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    assert sentence(ApiSettings).startswith(said)


def test_a_budget_above_the_largest_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that state no budget would have waited for longer than any may ask for."""
    monkeypatch.setenv("MILLRACE_DEFAULT_BUDGET_S", "90")
    said = "MILLRACE_DEFAULT_BUDGET_S=90 is above MILLRACE_MAX_BUDGET_S=60"
    assert sentence(ApiSettings) == f"the settings are inconsistent: {said}."


def test_a_bad_flag_is_named_as_a_flag() -> None:
    assert sentence(ApiSettings, port=99999).startswith("--port=99999 should be less than")
    assert sentence(ApiSettings, redis_url="x").startswith("--redis-url: must begin with redis://")


def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("redus://user:hunter2@host", "redis://user:/hunter2@host", "redis://hunter2:x/y"):
        monkeypatch.setenv("MILLRACE_REDIS_URL", url)
        assert "hunter2" not in sentence()
    monkeypatch.setenv("MILLRACE_REDIS_URL", "redis://:hunter2@host")
    monkeypatch.setenv("MILLRACE_SHARDS", "3")
    with pytest.raises(ValidationError) as raised:
        QueueSettings()
    assert "hunter2" not in str(raised.value)


def test_a_flag_wins_over_the_environment_and_none_is_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PORT", "9000")
    assert load_settings(ApiSettings, port=9001).port == 9001
    assert load_settings(ApiSettings, port=None).port == 9000


def test_redis_url_has_two_names_and_the_longer_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://a")
    assert load_settings(QueueSettings).redis_url.get_secret_value() == "redis://a"
    monkeypatch.setenv("MILLRACE_REDIS_URL", "redis://b")
    assert load_settings(QueueSettings).redis_url.get_secret_value() == "redis://b"


@pytest.mark.parametrize("variable", ["MILLRACE_REDIS_URL", "MILLRACE_CACHE_URL", "MILLRACE_JOBS_REDIS_URL"])
def test_a_line_break_at_the_end_of_a_url_is_not_part_of_it(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The cache looked for the sentinels' service "one" and a line break, and jobs likewise."""
    monkeypatch.setenv(variable, " redis+sentinel://a,b/one\n")
    found = getattr(load_settings(ApiSettings), variable.removeprefix("MILLRACE_").lower())
    assert found.get_secret_value() == "redis+sentinel://a,b/one"


def test_every_field_of_every_section_is_known() -> None:
    for kind in SECTIONS.values():
        for name, field in own_fields(kind).items():
            assert set(variables(name, field)) <= known_variables()
    assert {"REDIS_URL", "MILLRACE_REDIS_URL", "MILLRACE_API_KEYS"} <= known_variables()


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"cannot listen on 127\.0\.0\.1 port {port}: address already"
        ):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_a_host_that_is_no_address_is_one_sentence() -> None:
    with pytest.raises(CommandError, match=r"--host no\.such\.host\.invalid"):
        check_port("no.such.host.invalid", 8000)


def test_a_worker_without_its_extra_says_what_to_install() -> None:
    without_numpy = "import sys; sys.modules['numpy'] = None"
    script = f"{without_numpy}; from millrace.__main__ import main; sys.exit(main(['worker']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = "millrace worker: numpy is not installed: pip install 'millrace-server[worker]'.\n"
    assert done.stderr == said


@pytest.mark.parametrize(
    ("command", "package", "extra"),
    [
        ("train data.csv -o out", "numpy", "build"),
        ("train data.csv -o out", "torch", "build"),
        ("evaluate data.csv", "numpy", "models"),
        ("push . org/name", "huggingface_hub", "models"),
        ("status", "httpx", "cli"),
        ("top", "rich", "cli"),
        ("classify data.csv", "httpx", "cli"),
    ],
)
def test_every_command_says_which_extra_it_lacks(
    command: str, package: str, extra: str, tmp_path: Path
) -> None:
    """train ended with a traceback without numpy."""
    if find_spec("numpy") is None and package != "numpy":
        pytest.skip("another package is missing first")
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    words = f"import sys; sys.modules[{package!r}] = None; from millrace.__main__ import main"
    script = f"{words}; sys.exit(main({command.split()!r}))"
    line = [sys.executable, "-P", "-c", script]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f": pip install 'millrace-server[{extra}]'.\n"), done.stderr


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize("kind", [ApiSettings, WorkerSettings, JobSettings])
def test_an_empty_setting_is_its_default_or_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, kind: type[QueueSettings], value: str
) -> None:
    """An empty host, as compose sets it without a value, listened on all addresses."""
    default, advice = load_settings(kind), "is empty: give it a value, or leave it out for its default."
    refused = []
    for name, field in kind.model_fields.items():
        for variable in variables(name, field):
            with monkeypatch.context() as changed:
                changed.setenv(variable, value)
                try:
                    found = load_settings(kind)
                except CommandError as error:
                    refused.append((f"{variable} {advice}", str(error)))
                else:
                    expected = () if name in kind.may_be_empty else getattr(default, name)
                    assert getattr(found, name) == expected, variable
    assert refused
    assert all(said == expected for expected, said in refused), refused


def test_an_empty_flag_is_refused_by_name() -> None:
    assert sentence(ApiSettings, host="").startswith("--host is empty: ")


NONSENSE = ["", " ", "x", "-1", "1e400", "nan", "inf", "9" * 20, ",", "a=b", "a:b", "a\nb", "::", "[", "*"]


@pytest.mark.parametrize("kind", [ApiSettings, WorkerSettings, JobSettings])
def test_no_value_of_any_setting_ends_in_a_traceback(
    monkeypatch: pytest.MonkeyPatch, kind: type[QueueSettings]
) -> None:
    for name, field in kind.model_fields.items():
        for value in NONSENSE:
            with monkeypatch.context() as changed:
                changed.setenv(variables(name, field)[0], value)
                try:
                    load_settings(kind)
                except CommandError as error:
                    said = str(error)
                    assert said.endswith((".", "?")), (name, value)
                    assert "\n" not in said, (name, value)


def test_a_process_that_takes_no_options_refuses_them() -> None:
    command = [sys.executable, "-m", "batcher", "--port", "9000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("python -m batcher: error: unrecognized arguments: --port 9000\n")
