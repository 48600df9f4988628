"""How a browser comes to the console: a link that works once, and the session that it begins."""

from __future__ import annotations

import logging

import httpx
import pytest

from tests.unit.api.admin.conftest import ADMIN, READER, AdminApi, P, Start, keys


async def new_link(api: AdminApi, who: dict[str, str] = ADMIN) -> str:
    answer = await api.client.post("/admin/links", headers=who)
    assert answer.status_code == 201, answer.text
    path, _, link = answer.json()["path"].partition("#link=")
    assert path == "/console", "what is behind the # is sent to no server"
    return str(link)


async def begin(api: AdminApi, secret: str, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {secret}", **headers}
    return await api.client.post("/admin/session", headers=given)


def cookie(answer: httpx.Response) -> dict[str, str]:
    """The Cookie header that a browser sends afterwards."""
    return {"cookie": answer.headers["set-cookie"].partition(";")[0]}


async def test_a_link_works_once_and_its_session_until_it_ends(
    api: AdminApi, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        link = await new_link(api)
        first, again = await begin(api, link), await begin(api, link)
        assert (first.status_code, again.status_code) == (204, 401)
        api.client.cookies.clear()
        session = cookie(first)
        attributes = {part.strip().lower() for part in first.headers["set-cookie"].split(";")[1:]}
        assert attributes == {"httponly", "samesite=strict", "max-age=43200"}, "for the path of this route"
        assert first.headers["cache-control"] == "no-store"
        for method, path in (("GET", "/admin/audit"), ("DELETE", "/admin/pauses/all")):
            assert (await api.client.request(method, path)).status_code == 401
            assert (await api.client.request(method, path, headers=session)).status_code == 200
        line = (await api.get("/audit")).json()["audit"][-1]
        assert (line["action"], line["operator"]) == ("begin_session", "admin:ops")
        ended = await api.client.delete("/admin/session", headers=session)
        assert ended.status_code == 204
        assert "max-age=0;" in ended.headers["set-cookie"].lower(), "the browser forgets it"
        assert (await api.client.get("/admin/audit", headers=session)).status_code == 401
    secret = session["cookie"].partition("=")[2]
    for one in (link, secret):
        assert one not in caplog.text
        assert one not in str([vars(record) for record in caplog.records])


async def test_redis_has_digests_of_links_and_sessions_which_expire(api: AdminApi) -> None:
    link = await new_link(api)
    (key,) = api.redis.scan_iter(f"{P}:link:*")
    assert link.encode() not in key + api.redis.get(key)
    assert 0 < api.redis.ttl(key) <= 600
    session = cookie(await begin(api, link))["cookie"].partition("=")[2]
    assert not api.redis.exists(key)
    (key,) = api.redis.scan_iter(f"{P}:session:*")
    assert session.encode() not in key + api.redis.get(key)
    assert 0 < api.redis.ttl(key) <= 12 * 3600


async def test_a_session_may_do_what_its_key_may(api: AdminApi) -> None:
    session = cookie(await begin(api, await new_link(api, READER)))
    api.client.cookies.clear()
    assert (await api.client.get("/admin/audit", headers=session)).status_code == 200
    refused = await api.client.delete("/admin/pauses/all", headers=session)
    assert (refused.status_code, refused.json()["code"]) == (403, "read_only")
    by_key = cookie(await begin(api, "look"))
    api.client.cookies.clear()
    assert (await api.client.get("/admin/audit", headers=by_key)).status_code == 200


async def test_a_session_ends_with_its_key(start: Start) -> None:
    api = await start()
    session = cookie(await begin(api, "all"))
    api = await start(admin_keys=keys(other="new"))
    assert (await api.client.get("/admin/audit", headers=session)).status_code == 401
    api = await start(admin_keys="", admin_read_keys=keys(ops="all"))
    assert (await api.client.get("/admin/audit", headers=session)).status_code == 401, "it may only read now"


async def test_a_session_outlived_its_key_if_another_had_the_name(start: Start) -> None:
    """So someone with a key that was replaced stayed an operator, as at each start of `millrace up`."""
    api = await start(admin_keys=keys(ops="leaked"), admin_read_keys="")
    leaked = {"authorization": "Bearer leaked"}
    session, link = cookie(await begin(api, "leaked")), await new_link(api, leaked)
    api = await start(admin_keys=keys(ops="leaked") + "," + keys(ops="new"), admin_read_keys="")
    assert (await api.client.get("/admin/audit", headers=session)).status_code == 200
    api = await start(admin_keys=keys(ops="new"), admin_read_keys="")
    assert (await api.client.get("/admin/audit", headers=session)).status_code == 401
    assert (await begin(api, link)).status_code == 401


@pytest.mark.parametrize("secret", ["", "x", "x" * 43, "\u00e4" * 43, "x" * 5000])
async def test_a_guess_begins_nothing(api: AdminApi, secret: str) -> None:
    given = {b"authorization": f"Bearer {secret}".encode("latin-1")}
    assert (await api.client.post("/admin/session", headers=given)).status_code == 401
    given = {b"cookie": f"a=b; millrace-operator-8000={secret}; c".encode("latin-1")}
    assert (await api.client.get("/admin/audit", headers=given)).status_code == 401


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},  # another port of the same host, to which the cookie is sent, too
    {"origin": "http://localhost:9999"},
    {"origin": "null"},
    {"sec-fetch-site": "same-origin", "origin": "http://rebound.example"},
    {"sec-fetch-site": "same-origin", "origin": "null"},
]


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_a_session_is_of_no_use_to_other_sites(api: AdminApi, foreign: dict[str, str]) -> None:
    session = cookie(await begin(api, "all"))
    api.client.cookies.clear()
    answer = await api.client.delete("/admin/pauses/all", headers={**session, **foreign})
    assert answer.status_code == 403
    assert (await begin(api, await new_link(api), **foreign)).status_code == 403


async def test_a_cookie_over_https_is_sent_over_nothing_else(start: Start) -> None:
    api = await start(allowed_hosts="console.example")
    seen = {"origin": "https://console.example", "sec-fetch-site": "same-origin"}
    assert "; Secure" in (await begin(api, "all", **seen)).headers["set-cookie"]


async def test_there_is_no_link_to_a_page_that_is_turned_off(start: Start) -> None:
    api = await start(page=False)
    answer = await api.client.post("/admin/links", headers=ADMIN)
    assert (answer.status_code, answer.json()["code"]) == (404, "no_page")


async def test_operators_may_see_the_statistics_with_their_key(start: Start) -> None:
    api = await start(api_keys=keys(web="one"))
    assert (await api.client.get("/stats")).status_code == 401
    assert (await api.client.get("/stats", headers=READER)).status_code == 200
