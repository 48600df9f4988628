"""Webhooks: who is notified, when, how often, and with which signature."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import trustme

from batcher import webhook_security
from batcher.jobs import webhooks
from batcher.jobs.records import Counts, JobRecord
from batcher.jobs.store import JobStore
from batcher.jobs.upload import Submission
from batcher.jobs.webhooks import PAUSES_S, Delivery, WebhookSender, message, send
from batcher.settings import JobSettings
from batcher.webhook_security import Target, parse_secrets, parse_url, signed_headers
from tests.conftest import FakeRedis, encoded
from tests.fakes import job_record

ROOT = Path(__file__).parents[4]

JOB = "a" * 32
KEY = base64.b64encode(b"k" * 32).decode()
OLD = base64.b64encode(b"o" * 24).decode()


@dataclass
class Receiver:
    """A store with jobs, and a receiver that answers from a list; then always 200."""

    store: JobStore
    answers: list[Delivery] = field(default_factory=list)
    received: list[tuple[Target, str, bytes, dict[str, str]]] = field(default_factory=list)

    def post(
        self, target: Target, address: str, body: bytes, headers: dict[str, str], limit_s: float
    ) -> Delivery:
        assert 0 < limit_s <= 15
        self.received.append((target, address, body, headers))
        return self.answers.pop(0) if self.answers else Delivery(200)

    def sender(self, **settings: Any) -> WebhookSender:
        given = {"webhook_secrets": f"whsec_{KEY}, whsec_{OLD}", **settings}
        return WebhookSender(self.store, JobSettings(**given), self.post)

    def end(self, url: str = "https://example.com/hook", status: Any = "finished", job_id: str = JOB) -> None:
        """Creates a job of two texts, and ends it."""
        upload = self.store.upload(job_id, 256, Submission(webhook=url))
        upload.add(encoded(["secret text", "b"]))
        assert self.store.create(upload, "digest", 10).outcome == "created"
        attempt = self.store.start(job_id)
        self.store.append(attempt, 0, [b"[]\n[]"], counts=Counts(), rate=1.0, model="m@r")
        self.store.end(attempt, status)

    @property
    def record(self) -> JobRecord:
        found = self.store.record(JOB)
        assert found is not None
        return found


@pytest.fixture
def receiver(fake_redis: FakeRedis, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    def resolve(host: str, port: int) -> list[str]:
        if host == "nowhere.example":
            raise socket.gaierror("unknown")
        return ["127.0.0.1"] if host == "internal.example" else ["93.184.215.14"]

    monkeypatch.setattr(
        webhooks,
        "checked_address",
        lambda target, allowed: webhook_security.checked_address(target, allowed, resolve),
    )
    return Receiver(JobStore(fake_redis.sync, "unit", 60))


@pytest.mark.parametrize("status", ["finished", "failed", "cancelled"])
def test_the_end_of_a_job_is_notified_once(receiver: Receiver, status: str) -> None:
    receiver.end(status=status)
    sender = receiver.sender()
    assert receiver.record.next_delivery_ms is not None
    assert [sender.send_next(), sender.send_next()] == [True, False]
    ((target, address, body, _),) = receiver.received
    assert (target.authority, target.path, address) == ("example.com", "/hook", "93.184.215.14")
    assert body == message(receiver.record)
    assert (receiver.record.status, receiver.record.done) == (status, 2)
    assert b"secret text" not in body
    ended_s = (receiver.record.finished_ms or 0) / 1000
    at_s = pytest.approx(ended_s, abs=60)
    assert receiver.record.deliveries == [{"at": at_s, "status": 200, "error": ""}]
    assert receiver.record.next_delivery_ms is None


def test_an_attempt_has_the_time_of_redis_and_not_of_its_host(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers refuse a `webhook-timestamp` that is minutes from their own time."""
    receiver.end()
    claimed = receiver.store.claim_webhook(0.0)
    assert claimed is not None
    assert claimed[1] == pytest.approx(time.time(), abs=60)
    monkeypatch.setattr(receiver.store, "claim_webhook", lambda *_: (claimed[0], 1_750_000_000.25))
    assert receiver.sender().send_next()
    assert receiver.received[0][3]["webhook-timestamp"] == "1750000000"
    assert [one["at"] for one in receiver.record.deliveries] == [1_750_000_000.25]


def test_a_message_says_when_a_job_began_and_ended_and_how_far_it_came() -> None:
    times = {
        "created_ms": 1_700_000_001_250,
        "started_ms": 1_700_000_002_500,
        "finished_ms": 1_700_000_003_750,
    }
    record = job_record(id=JOB, status="failed", total=9, done=4, **times)
    facts = {
        "id": JOB,
        "status": "failed",
        "total": 9,
        "done": 4,
        "failed": 1,
        "created_at": "2023-11-14T22:13:21.250000+00:00",
        "started_at": "2023-11-14T22:13:22.500000+00:00",
        "finished_at": "2023-11-14T22:13:23.750000+00:00",
    }
    never = replace(record, started_ms=None, model="m@r", error_code="job_timeout", error="long")
    more = {"started_at": None, "model": "m@r", "error": {"code": "job_timeout", "detail": "long"}}
    for one, data in ((record, facts | {"model": None, "error": None}), (never, facts | more)):
        assert json.loads(message(one)) == {
            "type": "job.failed",
            "timestamp": "2023-11-14T22:13:23.750000+00:00",
            "data": data,
        }


def test_an_attempt_has_what_finding_the_address_has_left(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.end()
    sender = receiver.sender()
    limits_s: list[float] = []

    def post(*words: Any) -> Delivery:
        limits_s.append(words[-1])
        return Delivery(200)

    clock = iter([100.0, 104.0])
    monkeypatch.setattr(webhooks, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sender, "_post", post)
    assert sender.send_next()
    assert limits_s == [webhooks.ATTEMPT_S - 4.0]


def test_a_job_without_a_webhook_notifies_nothing(receiver: Receiver) -> None:
    receiver.end(url="")
    assert not receiver.sender().send_next()


def test_a_running_job_is_not_due(receiver: Receiver) -> None:
    upload = receiver.store.upload(JOB, 256, Submission(webhook="https://example.com"))
    upload.add(encoded(["a"]))
    receiver.store.create(upload, "digest", 10)
    assert not receiver.sender().send_next()
    receiver.store.cancel(JOB)
    assert receiver.sender().send_next()


def test_the_signatures_are_those_of_the_specification(receiver: Receiver) -> None:
    """By every key, so that receivers that know only the old or only the new one accept it."""
    receiver.end()
    receiver.sender().send_next()
    ((_, _, body, headers),) = receiver.received
    message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    assert int(timestamp) == pytest.approx(time.time(), abs=60)
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = [
        f"v1,{base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()}"
        for key in (b"k" * 32, b"o" * 24)
    ]
    assert headers["webhook-signature"].split(" ") == expected


def test_the_example_of_the_specification() -> None:
    (key,) = parse_secrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed_headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "value", ["secret", "whsec_", "whsec_!!!!", f"whsec_{base64.b64encode(b'short').decode()}"]
)
def test_a_key_that_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        parse_secrets(value)


def test_the_pauses_between_attempts_are_the_documented_ones() -> None:
    text = " ".join((ROOT / "docs/webhooks.md").read_text("utf-8").split())
    (listed,) = re.findall(r"it is sent again after (.*?), as long as the job exists", text)
    units = {"s": 1, "min": 60, "h": 3600}
    pauses = re.findall(r"(\d+) (s|min|h)\b", listed)
    assert [int(number) * units[unit] for number, unit in pauses] == [*PAUSES_S]


def test_failed_attempts_are_repeated_with_growing_pauses_and_then_given_up(
    receiver: Receiver, fake_redis: FakeRedis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "batcher.jobs.webhooks")
    receiver.end()
    receiver.answers = [Delivery(500, "the receiver answered 500")] * 20
    sender, due = receiver.sender(), b"{millrace-jobs:unit}:webhooks"
    pauses = []
    while sender.send_next():
        if (due_ms := receiver.record.next_delivery_ms) is not None:
            seconds, microseconds = fake_redis.sync.time()
            pauses.append(due_ms / 1000 - seconds - microseconds / 1e6)
            assert fake_redis.sync.zscore(due, JOB) == due_ms
            assert not sender.send_next(), "before it is due"
            fake_redis.sync.zadd(due, {JOB: 0})
    assert len(pauses) == len(PAUSES_S)
    assert all(least - 1 <= pause <= least * 1.1 for pause, least in zip(pauses, PAUSES_S, strict=True))
    assert len(receiver.record.deliveries) == len(PAUSES_S) + 1
    assert len({headers["webhook-id"] for *_, headers in receiver.received}) == 1
    assert len({body for _, _, body, _ in receiver.received}) == 1
    assert fake_redis.sync.zcard(due) == 0
    logged = [(record.__dict__["action"], record.__dict__["attempt"]) for record in caplog.records]
    failed = [("webhook.failed", number) for number in range(1, len(PAUSES_S) + 1)]
    assert logged == [*failed, ("webhook.given_up", len(PAUSES_S) + 1)]


def test_a_receiver_that_is_gone_gets_no_more(receiver: Receiver) -> None:
    receiver.end()
    receiver.answers = [Delivery(410, "the receiver answered 410")]
    sender = receiver.sender()
    assert [sender.send_next(), sender.send_next()] == [True, False]
    assert receiver.record.next_delivery_ms is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://internal.example", "not public"),
        ("http://example.com", "https"),
        ("https://nowhere.example", "no address"),
    ],
)
def test_an_address_that_is_not_allowed_receives_nothing(receiver: Receiver, url: str, why: str) -> None:
    receiver.end(url=url)
    receiver.sender().send_next()
    assert receiver.received == []
    assert why in receiver.record.deliveries[0]["error"]
    assert receiver.record.next_delivery_ms is not None, "names and settings may change"


def test_a_lookup_that_hung_held_a_thread_for_as_long_as_it_took(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the limit of the attempt nor the socket's counted it."""
    answered = threading.Event()
    monkeypatch.setattr(webhooks, "ATTEMPT_S", 0.1)
    monkeypatch.setattr(webhooks, "checked_address", lambda *_: answered.wait(10))
    receiver.end()
    began = time.monotonic()
    receiver.sender().send_next()
    assert time.monotonic() - began < 5
    assert {one.daemon for one in threading.enumerate() if one.name == "webhook-lookup"} == {True}
    answered.set()
    assert receiver.received == []
    assert receiver.record.deliveries[0]["error"] == "the address of the host was not found in time"
    assert receiver.record.next_delivery_ms is not None


@pytest.mark.parametrize("host", ["a..example", "a" * 64 + ".example", "."])
def test_a_host_that_cannot_be_a_name_was_tried_every_two_minutes_with_a_traceback(
    receiver: Receiver, host: str
) -> None:
    receiver.end(url=f"https://{host}/")
    receiver.sender().send_next()
    assert "the URL is refused" in receiver.record.deliveries[0]["error"]


def test_an_allowed_network_may_be_private(receiver: Receiver) -> None:
    receiver.end(url="http://internal.example:8080/")
    receiver.sender(webhook_networks="127.0.0.0/8").send_next()
    assert [address for _, address, _, _ in receiver.received] == ["127.0.0.1"]


def test_a_worker_that_dies_loses_no_delivery(receiver: Receiver, fake_redis: FakeRedis) -> None:
    receiver.end()
    assert receiver.store.claim_webhook(0.0) is not None
    assert receiver.sender().send_next()


def test_two_workers_do_not_send_the_same_delivery(receiver: Receiver) -> None:
    receiver.end()
    assert receiver.store.claim_webhook(60.0) is not None
    assert not receiver.sender().send_next()


def test_many_messages_to_a_receiver_that_hangs_delayed_those_to_all_others(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them held a thread for 15 s: with 40 of them, another one came after 149 s."""
    over, hanging, sent = threading.Event(), threading.Semaphore(0), threading.Event()

    def post(target: Target, *_: Any) -> Delivery:
        if target.host != "slow.example":
            sent.set()
        else:
            hanging.release()
            over.wait(30)
        return Delivery(200)

    monkeypatch.setattr(receiver, "post", post)
    for number in range(webhooks.THREADS + 2):
        receiver.end(f"https://slow.example/{number}", job_id=f"{number:032x}")
    sender = receiver.sender()
    threads = [threading.Thread(target=sender.send_next, daemon=True) for _ in range(webhooks.THREADS)]
    for thread in threads[: webhooks.MAX_OF_ONE]:
        thread.start()
        assert hanging.acquire(timeout=30)
    receiver.end("https://quick.example/")
    for thread in threads[webhooks.MAX_OF_ONE :]:
        thread.start()
    assert sent.wait(30)
    for thread in threads[webhooks.MAX_OF_ONE :]:
        thread.join(20)
        assert not thread.is_alive(), "no other message goes to the receiver that hangs"
    over.set()
    for thread in threads:
        thread.join(30)
    assert sender.send_next(), "the receiver has a place again"


def test_neither_an_outage_nor_a_crash_ends_the_deliveries(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "POLL_S", 0.001)
    sender, stop = receiver.sender(), threading.Event()
    errors = [RuntimeError("unforeseen"), redis.exceptions.ConnectionError("away")]
    send_next = sender.send_next

    def failing_at_first() -> bool:
        if errors:
            raise errors.pop()
        stop.set()
        return send_next()

    monkeypatch.setattr(sender, "send_next", failing_at_first)
    receiver.end()
    sender.run(stop)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("secrets", ["", f"whsec_{KEY}"])
def test_threads_send_messages_if_there_is_a_secret(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, secrets: str
) -> None:
    ran: list[str] = []
    everyone = threading.Barrier(webhooks.THREADS, timeout=30)

    def run(_: WebhookSender, stop: threading.Event) -> None:
        thread = threading.current_thread()
        everyone.wait()
        ran.append(f"{thread.name} {thread.daemon}")
        stop.wait(30)

    monkeypatch.setattr(WebhookSender, "run", run)
    stop = webhooks.start(receiver.store, JobSettings(webhook_secrets=secrets))
    assert not stop.is_set()
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("webhooks-")]
    stop.set()
    for thread in threads:
        thread.join(30)
    assert sorted(ran) == [f"webhooks-{number} True" for number in range(webhooks.THREADS if secrets else 0)]


def test_a_job_that_was_deleted_or_created_again_is_left_alone(receiver: Receiver) -> None:
    receiver.end()
    claimed = receiver.store.claim_webhook(0.0)
    assert claimed is not None
    receiver.store.delete(JOB)
    receiver.end(url="")
    receiver.store.record_webhook(claimed[0], [{"at": 1.0, "status": 200, "error": ""}], None)
    assert receiver.record.deliveries == []
    receiver.store.delete(JOB)
    assert not receiver.sender().send_next()


def test_the_delivery_of_a_job_that_redis_has_lost_is_dropped(
    receiver: Receiver, fake_redis: FakeRedis
) -> None:
    receiver.end()
    (due,) = fake_redis.sync.keys("*:webhooks")
    assert fake_redis.sync.delete(*fake_redis.sync.keys(f"*:job:{JOB}"))
    assert not receiver.sender().send_next()
    assert not fake_redis.sync.exists(due)


class Handler(BaseHTTPRequestHandler):
    """Answers with the status in its path; 0: sends nothing; -1: sends its answer byte by byte."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        names = "host", "webhook-id", "content-type", "user-agent"
        got = [*map(self.headers.get, names), body, {timer.daemon for timer in timers()}]
        self.server.got.append(got)  # type: ignore[attr-defined]
        status = int(self.path.strip("/"))
        if status < 0:
            with contextlib.suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\n" + b"X" * 200:
                    self.wfile.write(bytes([byte]))
                    threading.Event().wait(0.05)
        elif status:
            self.send_response(status)
            self.send_header("location", "https://example.com/")
            self.end_headers()
        else:
            threading.Event().wait(2)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.got = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def timers() -> list[threading.Timer]:
    """Those of this process that have neither run nor been cancelled."""
    found = (thread for thread in threading.enumerate() if isinstance(thread, threading.Timer))
    return [timer for timer in found if not timer.finished.is_set()]


@pytest.mark.parametrize(
    ("status", "done"), [(200, True), (204, True), (299, True), (300, False), (302, False), (500, False)]
)
def test_a_request_is_sent_to_the_address_that_was_checked(
    server: ThreadingHTTPServer, status: int, done: bool
) -> None:
    """The name does not resolve: it is only the Host of the request. A redirect is not followed."""
    target = parse_url(f"http://name.invalid:{server.server_port}/{status}")
    before = timers()
    delivery = send(target, "127.0.0.1", b"{}", {"webhook-id": "x"})
    assert delivery == Delivery(status, "" if done else f"the receiver answered {status}")
    assert delivery.done is done
    assert timers() == before, "the limit of the attempt waits on"
    host = f"name.invalid:{server.server_port}"
    got = [host, "x", "application/json", "millrace", b"{}", {True}]
    assert server.got == [got]  # type: ignore[attr-defined]


def test_a_receiver_that_does_not_answer(server: ThreadingHTTPServer) -> None:
    target = parse_url(f"http://name.invalid:{server.server_port}/0")
    delivery = send(target, "127.0.0.1", b"{}", {}, 0.1)
    assert delivery.status is None
    assert delivery.error


def test_a_receiver_that_answers_byte_by_byte(server: ThreadingHTTPServer) -> None:
    """No byte is late, so that no timeout of the socket ends it."""
    target, began = parse_url(f"http://name.invalid:{server.server_port}/-1"), time.monotonic()
    delivery = send(target, "127.0.0.1", b"{}", {}, 0.4)
    assert (delivery.status, bool(delivery.error)) == (None, True)
    assert time.monotonic() - began < 5


@pytest.fixture
def trusted(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the server speak TLS, with a certificate for hooks.example that clients trust."""
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(serving)
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)


@pytest.mark.usefixtures("trusted")
def test_a_handshake_that_outlasted_the_limit_left_the_rest_of_the_attempt_without_one(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is reached during the handshake, and the answer then arrives byte by byte."""
    connect, accept = socket.create_connection, server.get_request

    def connect_slowly(*given: Any) -> socket.socket:
        made = connect(*given)
        time.sleep(0.3)
        return made

    def accept_slowly() -> tuple[socket.socket, Any]:
        time.sleep(0.7)  # the system has connected, and the handshake waits
        return accept()

    monkeypatch.setattr(socket, "create_connection", connect_slowly)
    monkeypatch.setattr(server, "get_request", accept_slowly)
    target, began = parse_url(f"https://hooks.example:{server.server_port}/-1"), time.monotonic()
    delivery = send(target, "127.0.0.1", b"{}", {}, 0.5)
    assert (delivery.status, bool(delivery.error)) == (None, True)
    assert time.monotonic() - began < 3


def test_a_connection_that_is_refused() -> None:
    delivery = send(parse_url("http://name.invalid:1/"), "127.0.0.1", b"{}", {})
    assert delivery.error == "the connection failed: ConnectionRefusedError"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(("name", "works"), [("hooks.example", True), ("other.example", False)])
def test_the_certificate_must_be_valid_for_the_name(
    server: ThreadingHTTPServer, name: str, works: bool
) -> None:
    delivery = send(parse_url(f"https://{name}:{server.server_port}/200"), "127.0.0.1", b"{}", {})
    assert delivery.done is works
    assert works or "certificate is not valid" in delivery.error
