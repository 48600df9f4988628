"""Finding 19: requests that pages of other sites make browsers send, and requests that must keep working."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from api.settings import ApiSettings
from tests.unit.api.service import Service, Start, assert_problem

BODY = b'{"text": ["a"]}'
PROBES = ("/health", "/livez", "/readyz", "/metrics")
OTHERS = ("/", "/docs", "/openapi.json", "/static/page.js", "/stats", "/jobs", "/nowhere")


async def ask(service: Service, method: str, path: str, **headers: str) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    content = BODY if method == "POST" else None
    answer = await service.client.request(method, path, headers=names, content=content)
    if answer.status_code == 403:
        assert_problem(answer, 403, answer.json()["code"])
    return answer.status_code


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "service", "x@localhost"]
)
async def test_finding_19_a_service_on_loopback_answers_under_no_other_name(
    service: Service, host: str
) -> None:
    """An attacker's name that resolves to 127.0.0.1 is the same origin for the browser, but not our host."""
    answer = await service.client.post("/predict", content=BODY, headers={"host": host})
    problem = assert_problem(answer, 403, "host_not_allowed")
    assert "MILLRACE_ALLOWED_HOSTS" in str(problem["detail"])
    for path in OTHERS:
        assert_problem(await service.client.get(path, headers={"host": host}), 403, "host_not_allowed")
    assert_problem(
        await service.client.post("/jobs", content=BODY, headers={"host": host}), 403, "host_not_allowed"
    )
    assert service.hub.asked == []


@pytest.mark.parametrize("host", ["evil.example", "10.1.2.3:8000", "api.millrace.svc.cluster.local"])
async def test_finding_19_probes_answer_under_every_name(service: Service, host: str) -> None:
    for path in PROBES:
        for method in ("GET", "HEAD"):
            assert await ask(service, method, path, host=host, sec_fetch_site="cross-site") == 200, path


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:8000",
        "127.9.9.9:80",
        "[::1]:8000",
        "service.localhost",
        "192.168.1.5:8000",
        "[fe80::1]:8000",
    ],
)
async def test_finding_19_loopback_names_and_addresses_are_answered(service: Service, host: str) -> None:
    """Rebinding needs a name that the attacker's DNS resolves, so addresses are safe."""
    assert await ask(service, "POST", "/predict", host=host) == 200
    assert await ask(service, "GET", "/docs", host=host) == 200


@pytest.mark.parametrize(
    ("settings", "host", "status"),
    [
        ({"allowed_hosts": "api.example, Other.example"}, "api.example", 200),
        ({"allowed_hosts": "api.example, Other.example"}, "other.EXAMPLE:443", 200),
        ({"allowed_hosts": "api.example"}, "localhost:8000", 200),
        ({"allowed_hosts": "api.example"}, "sub.api.example", 403),
        ({"allowed_hosts": "*"}, "anything.example", 200),
        ({"host": "0.0.0.0", "open": "true"}, "anything.example", 200),
        ({"host": "0.0.0.0", "open": "true", "allowed_hosts": "api.example"}, "anything.example", 403),
        ({"host": "0.0.0.0", "open": "true", "allowed_hosts": "api.example"}, "api.example", 200),
    ],
)
async def test_finding_19_the_names_of_a_service_are_a_setting(
    start: Start, settings: dict[str, str], host: str, status: int
) -> None:
    service = await start(**settings)
    assert await ask(service, "POST", "/predict", host=host) == status
    assert await ask(service, "GET", "/stats", host=host) == status


@pytest.mark.parametrize("said", ["api.example:8000", "http://api.example", "a b", "*.example"])
def test_a_name_with_more_than_a_name_stops_the_start(said: str) -> None:
    with pytest.raises(ValidationError, match="without scheme or port"):
        ApiSettings(allowed_hosts=said)


FOREIGN = [
    {"sec_fetch_site": "cross-site", "origin": "https://evil.example"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site", "origin": "http://localhost:3000"},
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:3000"},
    {"origin": "null"},
    {"origin": "null", "sec_fetch_site": "cross-site"},
    {"origin": ""},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json"])
async def test_finding_19_what_a_page_of_another_site_sends_is_refused(
    service: Service, headers: dict[str, str], kind: str
) -> None:
    """Browsers send forms, and bodies without a type, without a preflight request."""
    typed = {**headers, **({"content_type": kind} if kind else {}), "host": "localhost:8000"}
    for method, path in (
        ("POST", "/predict"),
        ("POST", "/jobs"),
        ("DELETE", f"/jobs/{'a' * 32}"),
        ("GET", "/stats"),
    ):
        names = {name.replace("_", "-"): value for name, value in typed.items()}
        answer = await service.client.request(method, path, headers=names, content=BODY)
        problem = assert_problem(answer, 403, "cross_site")
        assert "another site" in str(problem["detail"])
    assert service.hub.asked == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content_type": "application/x-www-form-urlencoded"},
        {"sec_fetch_site": "same-origin", "origin": "http://localhost:8000"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "none", "origin": "chrome-extension://abcdef"},
        {"origin": "http://localhost:8000"},
        {"origin": "HTTP://LOCALHOST:8000"},
        {"sec_fetch_mode": "cors"},
    ],
)
async def test_finding_19_the_page_scripts_and_curl_are_answered(
    service: Service, headers: dict[str, str]
) -> None:
    assert await ask(service, "POST", "/predict", host="localhost:8000", **headers) == 200
    assert await ask(service, "GET", "/stats", host="localhost:8000", **headers) == 200


async def test_finding_19_a_link_on_another_site_leads_here(service: Service) -> None:
    """A user may follow a link to any page, because a GET request does not change anything."""
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    for path in ("/", "/docs", "/openapi.json", "/stats"):
        assert await ask(service, "GET", path, **link) == 200
    for path in ("/predict", "/jobs"):
        assert await ask(service, "POST", path, **link) == 403, "a form that another site has filled in"


async def test_finding_19_behind_a_proxy_that_changes_the_host_its_own_page_is_answered(start: Start) -> None:
    """Over plain HTTP, browsers only send Origin."""
    service = await start(allowed_hosts="api.example")
    for host in ("127.0.0.1:8000", "api.example"):
        assert await ask(service, "POST", "/predict", host=host, origin="http://api.example") == 200
        assert await ask(service, "POST", "/predict", host=host, origin="http://evil.example") == 403


async def test_finding_19_a_request_without_a_host_is_answered(service: Service) -> None:
    """HTTP/1.0 does not require Host, and browsers do not use it."""
    request = service.client.build_request("POST", "/predict", content=BODY)
    del request.headers["host"]
    assert (await service.client.send(request)).status_code == 200
