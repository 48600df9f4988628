"""API keys: names, rotation, and configurations that must never allow access without a key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from tests.unit.api.jobs.conftest import start as start_jobs_api
from tests.unit.api.jobs.jobs_api import Start as StartJobsApi
from tests.unit.api.service import Start, assert_problem

__all__ = ["start_jobs_api"]

EMPTY = sha256(b"").hexdigest()


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("said", [EMPTY, EMPTY.upper(), f"web:{EMPTY}", f"{'a' * 64},{EMPTY}"])
def test_finding_06d_the_digest_of_the_empty_key_stops_the_start(said: str) -> None:
    """The output of `printf %s "$KEY" | sha256sum` and `echo "$KEY" | sha256sum` if KEY is unset."""
    with pytest.raises(ValidationError, match=r"digest of an empty key.*millrace key new"):
        ApiSettings(api_keys=said)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="digest of an empty key"):
        ApiSettings(api_keys=sha256(b"\n").hexdigest())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": ""}, {"authorization": "Bearer "}, {"authorization": "Bearer    "}]
)
async def test_finding_06d_an_empty_key_is_never_accepted(
    start: Start, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    """Not even if its digest is one of the accepted ones."""
    monkeypatch.setattr("api.keys._EMPTY", frozenset())
    service = await start(api_keys=EMPTY)
    answer = await service.client.post("/predict", json={"text": ["a"]}, headers=headers)
    assert_problem(answer, 401, "unauthorized")
    assert_problem(await service.client.get("/jobs", headers=headers), 401, "unauthorized")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("web:abc", "64 hex digits"),
        (f"a b:{'a' * 64}", "64 hex digits"),
        (f":{'a' * 64}", "64 hex digits"),
        (f"a:b:{'a' * 64}", "64 hex digits"),
        (f"one:{'a' * 64},two:{'A' * 64}", "the same key has the names one and two"),
        (f"one:{'a' * 64},{'a' * 64}", "the same key has the names"),
    ],
)
def test_a_list_of_keys_that_makes_no_sense_stops_the_start(said: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        ApiSettings(api_keys=said)  # type: ignore[arg-type]


def test_a_list_of_keys_may_stand_on_several_lines() -> None:
    settings = ApiSettings(api_keys=f" web:{'A' * 64},\n web:{'b' * 64} ,\n{'c' * 64},")  # type: ignore[arg-type]
    assert settings.api_keys.get_secret_value() == {"a" * 64: "web", "b" * 64: "web", "c" * 64: "c" * 12}


async def test_finding_16_a_rotated_key_keeps_its_jobs(start_jobs_api: StartJobsApi) -> None:
    """Two keys with the same name are one client: they share jobs, Idempotency-Keys and access."""
    api = await start_jobs_api(api_keys=f"web:{digest('old')},web:{digest('new')},other:{digest('third')}")
    handed_in = await api.submit("a", "b", x_api_key="old", idempotency_key="once")
    path = f"/jobs/{handed_in.json()['id']}"
    assert handed_in.status_code == 202
    assert (await api.client.get(path, headers={"x-api-key": "new"})).status_code == 200
    repeated = await api.submit("a", "b", x_api_key="new", idempotency_key="once")
    assert (repeated.status_code, repeated.json()["id"]) == (200, handed_in.json()["id"])
    assert_problem(await api.client.get(path, headers={"x-api-key": "third"}), 404, "not_found")
    record = api.store.record(handed_in.json()["id"])
    assert record is not None
    assert record.owner == "key:web"


async def test_finding_16_a_key_without_a_name_can_be_rotated_under_its_derived_one(
    start_jobs_api: StartJobsApi,
) -> None:
    """The name is the first twelve digits of the digest. Jobs from before keys had names belong to it."""
    api = await start_jobs_api(api_keys=digest("old"))
    handed_in = await api.submit("a", x_api_key="old")
    record = api.store.record(handed_in.json()["id"])
    assert record is not None
    assert record.owner == f"key:{digest('old')[:12]}"
    names = ApiSettings(api_keys=f"{digest('old')[:12]}:{digest('new')}").api_keys.get_secret_value()  # type: ignore[arg-type]
    assert names[digest("new")] == digest("old")[:12]


async def test_finding_16_the_jobs_of_a_name_that_is_gone_are_not_shown_on_the_page(
    start_jobs_api: StartJobsApi,
) -> None:
    """All viewers of /stats get the same frame. If one name is left, the frame only shows its jobs."""
    both = await start_jobs_api(api_keys=f"web:{digest('one')},gone:{digest('two')}")
    mine = (await both.submit("a", x_api_key="one")).json()["id"]
    await both.submit("b", x_api_key="two")
    api = await start_jobs_api(api_keys=f"web:{digest('one')},web:{digest('new')}")
    frame = await api.client.get("/stats", headers={"x-api-key": "new"})
    assert [job["id"] for job in frame.json()["jobs"]] == [mine]


async def test_finding_16_limits_belong_to_the_name(start: Start) -> None:
    keys = f"web:{digest('old')},web:{digest('new')},other:{digest('third')}"
    service = await start(api_keys=keys, rate_limit="2/minute")
    statuses = [(await service.predict("a", x_api_key=key)).status_code for key in ("old", "new", "old")]
    assert statuses == [200, 200, 429]
    assert (await service.predict("a", x_api_key="third")).status_code == 200


async def test_finding_16_metrics_and_logs_belong_to_the_name(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start(api_keys=f"web:{digest('one')},idle:{digest('two')}")
    with caplog.at_level(logging.INFO):
        await service.predict("a", x_api_key="one")
        await service.predict(*["b"] * 2000, x_api_key="one")
        await service.client.get("/stats", headers={"x-api-key": "one"})
        await service.predict("a", x_api_key="wrong")
    scraped = (await service.client.get("/metrics")).text
    assert 'millrace_client_requests_total{client="web",status="2xx"} 2.0' in scraped
    assert 'millrace_client_requests_total{client="web",status="4xx"} 1.0' in scraped
    assert "idle" not in scraped
    lines = [record.__dict__ for record in caplog.records if getattr(record, "action", "") == "request"]
    assert [line.get("client") for line in lines] == ["web", "web", "web", None]
    assert digest("one")[:12] not in caplog.text


async def test_without_keys_no_log_line_names_an_address(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = await start()
    with caplog.at_level(logging.INFO):
        await service.predict("a")
    assert all("client" not in record.__dict__ for record in caplog.records)
    assert "millrace_client_requests_total{" not in (await service.client.get("/metrics")).text


@pytest.mark.parametrize(
    ("settings", "starts"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "127.0.0.9"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "api.example"}, False),
        ({"host": "0.0.0.0", "open": "true"}, True),
        ({"host": "0.0.0.0", "api_keys": "a" * 64}, True),
        ({"open": "false"}, False),
        ({"open": "false", "api_keys": "a" * 64}, True),
    ],
)
def test_finding_18_without_keys_a_service_is_open_only_on_loopback_or_where_it_is_said(
    settings: dict[str, str], starts: bool
) -> None:
    def start() -> ApiSettings:
        return ApiSettings(**settings)  # type: ignore[arg-type]

    if starts:
        start()
    else:
        with pytest.raises(ValidationError, match=r"MILLRACE_API_KEYS.*MILLRACE_OPEN=true"):
            start()


def test_finding_18_the_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from millrace.__main__ import main

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it starts")

    monkeypatch.setattr("api.server.run.serve", never)
    monkeypatch.setattr("millrace.up.find_server", never)
    monkeypatch.setenv("MILLRACE_HOST", "0.0.0.0")
    monkeypatch.setenv("MILLRACE_PORT", "0")
    commands: list[Callable[[], int]] = [lambda: main(["api"]), lambda: main(["up"])]
    for command in commands:
        assert command() == 2
        said = capsys.readouterr().err
        assert "no API key is set" in said
        assert said.count("\n") == 1
