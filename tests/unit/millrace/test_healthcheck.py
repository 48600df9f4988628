"""The health check of a container asks the port of the process that it runs."""

from __future__ import annotations

import pytest

from millrace.healthcheck import port_of

START = ["python3", "-m", "millrace"]


@pytest.mark.parametrize(
    ("words", "settings", "port"),
    [
        ([*START, "api"], {}, 8000),
        ([*START, "api", ""], {"MILLRACE_PORT": "80", "MILLRACE_JOBS_PORT": "9100"}, 80),
        ([*START, "api", "--port", "9000"], {"MILLRACE_PORT": "80"}, 9000),
        ([*START, "api", "--processes", "2", "--port=9000"], {"MILLRACE_PORT": "80"}, 9000),
        ([*START, "jobs"], {"MILLRACE_JOBS_PORT": "9100"}, 9100),
        (["/sbin/docker-init", "--", *START, "jobs"], {"MILLRACE_JOBS_PORT": "9100"}, 9100),
        ([*START, "jobs"], {}, 0),
        ([*START, "worker", "--model", "stub"], {"MILLRACE_WORKER_PORT": "9200"}, 9200),
        ([*START, "serve"], {}, 8080),
        ([*START, "serve"], {"AIP_HTTP_PORT": "7080"}, 7080),
        ([*START, "serve"], {"AIP_HTTP_PORT": "7080", "MILLRACE_PORT": "80"}, 80),
        ([*START, "up", "--port", "9000"], {}, 9000),
        (["sh"], {}, 0),
    ],
)
def test_the_port_follows_from_the_command(
    words: list[str], settings: dict[str, str], port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert port_of(words) == port
