"""`millrace serve`: what the clouds' environment becomes, and which processes an image starts."""

from __future__ import annotations

import argparse
import importlib.util
import os
from typing import Any

import pytest

from api.settings import ApiSettings
from millrace import api, up
from millrace.__main__ import main

Started = list[tuple[str, argparse.Namespace, ApiSettings]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """What `millrace up` and `millrace api` were asked to start, and the settings that they would read."""
    found: Started = []
    # Set and removed, so that the variables that the command sets are removed after the test.
    for name in ("MILLRACE_HOST", "MILLRACE_PORT", "MILLRACE_OPEN", "MILLRACE_COMPAT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for command in (up, api):
        name = command.__name__.rpartition(".")[2]

        def start(args: argparse.Namespace, name: str = name) -> int:
            assert name != "up" or args.data_dir is None or args.data_dir.is_dir()
            found.append((name, args, ApiSettings()))
            return 0

        monkeypatch.setattr(command, "run", start)
    return found


def test_everything_starts_with_its_own_redis(started: Started) -> None:
    assert main(["serve"]) == 0
    ((name, args, settings),) = started
    assert (name, args.workers, args.no_disk) == ("up", 1, True)
    assert args.data_dir.name.startswith("millrace-")
    assert not args.data_dir.exists(), "each start left a directory behind"
    assert (settings.host, settings.port, settings.open) == ("0.0.0.0", 8080, "true")
    assert settings.compat[-2:] == ("sagemaker", "vertex")


def test_an_empty_port_of_the_platform_is_none(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_HTTP_PORT", "")
    assert main(["serve"]) == 0
    ((_, _args, settings),) = started
    assert settings.port == 8080


def test_given_settings_count_instead(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AIP_HTTP_PORT": "7080",
        "MILLRACE_COMPAT": "vertex",
        "MILLRACE_REDIS_URL": "redis://elsewhere:1/0",
        "millrace_open": "auto",
        "MILLRACE_API_KEYS": "a" * 64,
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["serve", "--workers", "2"]) == 0
    ((_, args, settings),) = started
    assert (args.workers, args.data_dir, args.no_disk) == (2, None, False)
    assert (settings.port, settings.compat, settings.open) == (7080, ("vertex",), "auto")
    assert "MILLRACE_OPEN" not in os.environ


def test_the_image_of_the_api_starts_the_api(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str, *_: Any) -> None:
        assert name == "model_store"

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert main(["serve"]) == 0
    assert [name for name, *_ in started] == ["api"]
