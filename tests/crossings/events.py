"""What happens in a situation while requests wait, each undone by itself."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from batcher.messages import entry_id
from tests.crossings.record import Exchange
from tests.crossings.routes import JOBS, ROUTES, Batch, Job
from tests.crossings.services import CLIENTS, KNOWN_S, Version, api_keys, key_of
from tests.service import wait_until
from tests.signing import SIGNED

if TYPE_CHECKING:
    from tests.crossings.run import Crossing

FROZEN_S = 1.2
FULL_S = 0.5
# Within which a request has certainly come if it was answered by then.
SENT_S = 2.0
# Texts of a job that does not fit into the buffers of a connection.
LONG_TEXTS, LONG_CHARS = 1536, 10_000


def none(crossing: Crossing) -> None:
    """Nothing."""


def kill_worker(crossing: Crossing) -> None:
    crossing.service.worker.kill()


def freeze_worker(crossing: Crossing) -> None:
    worker = crossing.service.worker
    worker.kill(signal.SIGSTOP)
    time.sleep(FROZEN_S)
    worker.kill(signal.SIGCONT)


def kill_jobs_worker(crossing: Crossing) -> None:
    crossing.service.jobs.kill()


def replace_worker(crossing: Crossing) -> None:
    """By one of another revision or setting, where the service has one."""
    service = crossing.service
    others = [one for one in service.kind.versions if one is not service.version and not service.used_up]
    version = others[0] if others else service.version
    for _ in service.replace_worker(version):
        crossing.ask_all("during", count=12)
        crossing.ask_all("during", count=12)


def restart_api(crossing: Crossing) -> None:
    assert crossing.service.api.stop() == 0
    crossing.service.start_api()


def kill_api(crossing: Crossing) -> None:
    crossing.service.api.kill()
    crossing.service.start_api()


def restart_redis(crossing: Crossing) -> None:
    crossing.service.backing.restart()


def fill_redis(crossing: Crossing) -> None:
    servers = crossing.service.backing.queue
    clients = [server.client() for server in servers]
    before = [client.config_get("maxmemory")["maxmemory"] for client in clients]
    for client in clients:
        client.config_set("maxmemory", "1mb")
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(crossing.ask_all, "during")
        # The Python client and the command ask again for a minute.
        wait([asking], SENT_S)
        time.sleep(FULL_S)
        for client, size in zip(clients, before, strict=True):
            client.config_set("maxmemory", size)
            client.close()
        asking.result()


def revoke_key(crossing: Crossing) -> None:
    """Of the other client, until the event is over."""
    service, other = crossing.service, crossing.other
    _start_api(crossing, api_keys(other))
    crossing.check_refused(other, "unauthorized", 401)
    _start_api(crossing, api_keys())
    service.heal()


def _start_api(crossing: Crossing, keys: str) -> None:
    service = crossing.service
    service.environment["MILLRACE_API_KEYS"] = keys
    assert service.api.stop() == 0
    service.start_api()
    service.heal()


def rotate_password(crossing: Crossing) -> None:
    """Of one role, as docs/redis-users.md says, and back."""
    service = crossing.service
    role = crossing.rng.choice(("api", "worker", "jobs"))
    for old, new in ((role, "another"), ("another", role)):
        _each_server(crossing, "ACL", "SETUSER", role, f">{new}")
        service.passwords[role] = new
        _restart(crossing, role)
        service.heal()
        _each_server(crossing, "ACL", "SETUSER", role, f"<{old}")
        crossing.ask_all("during")


def _each_server(crossing: Crossing, *words: str) -> None:
    for server in crossing.service.backing.every:
        with server.client() as client:
            client.execute_command(*words)


def _restart(crossing: Crossing, role: str) -> None:
    """Stops a process; `heal` starts it. One that has just begun may not handle signals yet."""
    service = crossing.service
    process = {"api": service.api, "worker": service.worker, "jobs": service.jobs}[role]
    assert process.stop() in (0, -signal.SIGTERM), process.said()[-2000:]


def publish(crossing: Crossing) -> None:
    """Another revision of the first model, which then answers."""
    service = crossing.service
    reference = f"{SIGNED}-{crossing.rng.choice(('1089', '23', '10'))}"
    answering = [one.reference for one in service.checker.revisions if one.model == "stub"]
    revision = crossing.know(reference)
    service.publish(reference)
    service.checker.settled(*(set(answering) - {reference}), at=time.monotonic())
    service.decided = service.decisions()
    service.answers(revision.name)
    service.used_up = True


def drop_model(crossing: Crossing) -> None:
    """A worker that lacks the second model takes the place of the one that serves both."""
    service = crossing.service
    whole = service.version
    first = Version({"model": str(whole.settings["model"]).partition(",")[0]}, lambda: whole.revisions[:1])
    for _ in service.replace_worker(first):
        pass
    name = service.kind.models[1]
    wait_until(lambda: crossing.status_of(name) == 503, f"{name} to be without a worker")
    crossing.ask_all("during")
    for _ in service.replace_worker(whole):
        pass


def add_namesake(crossing: Crossing) -> None:
    """A worker that serves another model by the name of the first."""
    service = crossing.service
    other = service.start_worker(model=f"-,stub={SIGNED}-7", abstain=0, text_windows="")

    wait_until(lambda: crossing.ready("stub") > 1, "the other model", 60)
    crossing.check_name("stub")
    assert other.stop() == 0
    service.workers.remove(other)
    wait_until(lambda: crossing.ready("stub") == 1, "the other model to be gone", 60)
    service.used_up = True


def hold_client(crossing: Crossing) -> None:
    """The other client, until the event is over."""
    client = f"key:{crossing.other}"
    crossing.service.change("POST", "clients/hold", {"client": client, "what": "all", "for_s": 600})
    time.sleep(KNOWN_S)
    crossing.check_refused(crossing.other, "client_paused", 429)
    crossing.service.change("POST", "clients/resume", {"client": client})
    time.sleep(KNOWN_S)


def pause_all(crossing: Crossing) -> None:
    """Texts that wait are kept, and new ones refused or kept."""
    waiting = crossing.rng.choice(("keep", "refuse", "finish"))
    crossing.service.change("PUT", "pauses/all", {"waiting": waiting, "for_s": 600})
    crossing.ask_all("during", wait=2)
    crossing.service.change("DELETE", "pauses/all")
    # Every process knows of it within two seconds: the next event may say what other clients notice.
    first = crossing.service.kind.models[0]
    wait_until(lambda: crossing.status_of(first) == 200, "the end of the pause", 10)


def forget_text(crossing: Crossing) -> None:
    """One that is known, and one that requests and jobs have at the moment."""
    service = crossing.service
    text = service.remembered.pop() if service.kind.published and service.remembered else crossing.known[0]
    wait_until(lambda: not service.leftovers(), "the queue to be empty", 60)
    _check_forgotten(crossing, text, service.change("POST", "forget", {"text": text}))
    (text,) = crossing.texts(1)
    with crossing.asking(text) as asked:
        time.sleep(crossing.rng.random() / 20)
        while (said := service.change("POST", "forget", {"text": text}))["removed"]["waiting"]:
            pass
    # A request that came later was sent again, which is kept.
    if all(one.seconds < SENT_S for one in asked):
        _check_forgotten(crossing, text, said)


def _check_forgotten(crossing: Crossing, text: str, said: Any) -> None:
    time.sleep(0.2)
    tenants = ["", *(f"key:{name}" for name in CLIENTS)]
    digests = [entry_id(text, tenant) for tenant in tenants]
    for key, value in crossing.service.contents():
        if any(digest in key for digest in digests) or text in value:
            crossing.record.left.append(f"{key} is left of a text that was forgotten: {said}")


def delete_job(crossing: Crossing) -> None:
    """While a client reads its texts; and one that has not ended."""
    long = [f"{number} {'x ' * (LONG_CHARS // 2)}" for number in range(LONG_TEXTS)]
    service, client = crossing.service, crossing.client
    headers = key_of(client)
    made = service.http.post("/jobs", params={"keep_input": "true"}, json={"text": long}, headers=headers)
    if not made.is_success:
        crossing.record.cut.append(f"a job was refused: {made.status_code} {made.text}")
        return
    path = made.headers["location"]
    try:
        with service.http.stream("GET", f"{path}/texts", headers=headers) as answer:
            blocks = answer.iter_bytes()
            content = next(blocks)
            assert service.http.delete(path, headers=headers).is_success
            if service.http.get(path, headers=headers).is_success:
                assert service.http.delete(path, headers=headers).is_success
            content += b"".join(blocks)
    except httpx.TransportError:
        return
    if (count := content.count(b"\n")) != len(long):
        crossing.record.cut.append(f"{path}/texts is complete with {count} of {len(long)} texts")


def leave(crossing: Crossing) -> None:
    """A client sends a request of each route, and closes the connection."""
    for name in crossing.situation.routes:
        exchange = crossing.exchange(name, "during", crossing.texts(4))
        crossing.leave(exchange)


def repeat(crossing: Crossing) -> None:
    """The same request with the same key, where there are quotas also by a client that has used its own."""
    small = crossing.service.small
    for client in ("repeater", *([small.pop()] if small else ())):
        for name, exchange in crossing.with_key(client):
            again = crossing.repeated(name, exchange)
            if exchange.job and again.job != exchange.job:
                crossing.record.done.append(f"{exchange} and {again} have two jobs")
            if client != "repeater":
                crossing.check_refused(client, "quota_exceeded", 429)
                break


def repeat_with_other_contents(crossing: Crossing) -> None:
    """The same key, and something else that changes what the job does or says."""
    for name, exchange in crossing.with_key():
        route = ROUTES[name]
        before = crossing.jobs()
        for what, changed in _changes(crossing, route, exchange):
            again = crossing.repeated(name, exchange, changed)
            if exchange.job and again.status != 409:
                crossing.record.done.append(f"{exchange} repeated with {what} is answered: {again}")
        if crossing.jobs() - before:
            crossing.record.done.append(f"a refused repetition of {name} has made a job")


def _changes(crossing: Crossing, route: Any, exchange: Exchange) -> list[tuple[str, dict[str, Any]]]:
    """What of a job can be changed, by name."""
    found: list[tuple[str, dict[str, Any]]] = [("other texts", {"texts": crossing.texts(3)})]
    if isinstance(route, Job):
        found.append(("a webhook", {"headers": {"webhook-url": "https://example.com/hook"}}))
        if not route.by_predict:
            found.append(("keep_input", {"seed": exchange.seed ^ 1}))
    if isinstance(route, Job | Batch) and len(crossing.service.kind.models) > 1:
        others = [one for one in crossing.service.kind.models if one != exchange.model]
        found.append(("another model", {"model": others[0]}))
    return found


def set_clock_ahead(crossing: Crossing) -> None:
    """Of the host of a second worker, or of the API."""
    service = crossing.service
    if crossing.rng.random() < 0.5:
        other = service.another_worker(**service.version.settings, ahead=True)
        crossing.ask_all("during")
        crossing.ask_all("during")
        assert other.stop() == 0, other.said()[-2000:]
        return
    assert service.api.stop() == 0
    service.api = service.start_ahead("api")
    service.heal()
    crossing.ask_all("during")
    assert service.api.stop() == 0
    service.start_api()


@dataclass(frozen=True, slots=True)
class Event:
    """`alone`: it concerns one client, and others must not notice. `cuts`: connections may be cut."""

    act: Callable[[Crossing], None]
    alone: bool = False
    cuts: bool = False
    # Statuses of refusals that are right meanwhile.
    allowed: frozenset[int] = frozenset()
    # Services that it does not fit, or if there are any, those that it fits only.
    not_in: frozenset[str] = frozenset()
    only_in: frozenset[str] = frozenset()
    # The routes that it fits, if not all.
    only_with: frozenset[str] = frozenset()


# Other answers are right after these, so that most of what is wrong shows soonest with them.
EARLY = frozenset({"worker replaced", "published", "model dropped", "text forgotten"})
WITH_SECOND_MODEL = frozenset({"several models", "cascade"})
EVENTS = {
    "none": Event(none, alone=True),
    "worker killed": Event(kill_worker),
    "worker frozen": Event(freeze_worker),
    "jobs worker killed": Event(kill_jobs_worker, alone=True),
    "worker replaced": Event(replace_worker),
    "API restarted": Event(restart_api, cuts=True),
    "API killed": Event(kill_api, cuts=True),
    "Redis restarted": Event(restart_redis),
    "Redis full": Event(fill_redis),
    "key revoked": Event(revoke_key, cuts=True),
    "password rotated": Event(rotate_password, cuts=True),
    "published": Event(publish, not_in=frozenset({"share", "shadow", "abstain", "cascade"})),
    "model dropped": Event(drop_model, only_in=WITH_SECOND_MODEL),
    "namesake added": Event(add_namesake, allowed=frozenset({409}), not_in=frozenset({"cascade"})),
    "client held": Event(hold_client, alone=True),
    # Its end would end the pause of jobs, too.
    "all paused": Event(pause_all, not_in=frozenset({"paused"})),
    "text forgotten": Event(forget_text, alone=True, not_in=frozenset({"paused"})),
    "job deleted": Event(delete_job, alone=True, not_in=frozenset({"paused"})),
    "client left": Event(leave, alone=True),
    "repeated": Event(repeat, alone=True),
    "repeated otherwise": Event(repeat_with_other_contents, alone=True, only_with=JOBS),
    "clock ahead": Event(set_clock_ahead, cuts=True),
}
