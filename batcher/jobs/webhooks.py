"""Notifies clients of the end of their jobs, by Standard Webhooks 1.0.

A job that ends becomes due for delivery in the same script that ends it. Threads of the jobs worker claim due
deliveries with a lease, so that a worker that dies loses none, send them, and record each attempt in the job.
"""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from batcher.connection.outage import REDIS_ERRORS, jitter
from batcher.jobs.records import JobRecord
from batcher.jobs.store import JobStore
from batcher.settings import JobSettings
from batcher.webhook_security import AddressRefused, Target, checked_address, parse_url, signed_headers

log = logging.getLogger(__name__)

# Pauses after each failed attempt, in seconds: ten hours in all. A tenth is random.
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 10_800, 10_800)
# How long an attempt may take, and for how long no other thread tries the same delivery.
ATTEMPT_S = 15.0
LEASE_S = 120.0
POLL_S = 1.0
# So that one receiver that does not answer, and gets MAX_OF_ONE messages at a time, does not delay others.
THREADS = 4
MAX_OF_ONE = 2
GONE = 410


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome of an attempt: the status of the response, or an error."""

    status: int | None = None
    error: str = ""

    @property
    def done(self) -> bool:
        return self.status is not None and 200 <= self.status < 300

    @property
    def final(self) -> bool:
        """Whether no further attempt is needed: it succeeded, or the receiver asked for no more."""
        return self.done or self.status == GONE


# The last argument is how many seconds are left of the attempt.
Post = Callable[[Target, str, bytes, dict[str, str], float], Delivery]


class WebhookSender:
    """Sends due deliveries. `post` sends one request."""

    def __init__(self, store: JobStore, settings: JobSettings, post: Post | None = None) -> None:
        self._store = store
        self._keys = settings.webhook_secrets.get_secret_value()
        self._allowed = settings.webhook_networks
        self._post = post or send
        # Messages on their way, by receiver.
        self._sending = Counter[str]()
        self._claiming = threading.Lock()

    def send_next(self) -> bool:
        """Sends the next due delivery; False if there is none. Raises Redis errors."""
        with self._claiming:
            busy = [receiver for receiver, count in self._sending.items() if count >= MAX_OF_ONE]
            claimed = self._store.claim_webhook(LEASE_S, busy)
            if claimed is None:
                return False
            record, at_s = claimed
            self._sending[record.receiver] += 1
        try:
            self._send(record, at_s)
        finally:
            with self._claiming:
                self._sending -= Counter([record.receiver])
        return True

    def _send(self, record: JobRecord, at_s: float) -> None:
        delivery = self._attempt(record, at_s)
        attempt = {"at": at_s, "status": delivery.status, "error": delivery.error}
        attempts = [*record.deliveries, attempt]
        pause_s = None
        if not delivery.final and len(attempts) <= len(PAUSES_S):
            pause_s = PAUSES_S[len(attempts) - 1] * jitter(1.0, 1.1)
        self._store.record_webhook(record, attempts, pause_s)
        self._log(record, delivery, pause_s)

    def _attempt(self, record: JobRecord, at_s: float) -> Delivery:
        body = message(record)
        began = time.monotonic()
        message_id = f"msg_{record.id}_{record.finished_ms}"
        try:
            target = parse_url(record.webhook)
            address = _in_time(partial(checked_address, target, self._allowed))
        except TimeoutError:
            return Delivery(error="the address of the host was not found in time")
        except (AddressRefused, OSError) as error:
            return Delivery(error=_reason(error))
        headers = signed_headers(self._keys, message_id, int(at_s), body)
        return self._post(target, address, body, headers, ATTEMPT_S - (time.monotonic() - began))

    def _log(self, record: JobRecord, delivery: Delivery, pause_s: float | None) -> None:
        fields = {"job": record.id, "status": delivery.status, "attempt": len(record.deliveries) + 1}
        if delivery.done:
            log.info("webhook delivered", extra={"action": "webhook.delivered", **fields})
        elif pause_s is None:
            log.warning(
                "gave up on a webhook: %s", delivery.error, extra={"action": "webhook.given_up", **fields}
            )
        else:
            log.info("webhook failed: %s", delivery.error, extra={"action": "webhook.failed", **fields})

    def run(self, stop: threading.Event) -> None:
        """Sends deliveries until `stop` is set. The worker reports Redis outages."""
        while not stop.wait(POLL_S):
            try:
                while not stop.is_set() and self.send_next():
                    pass
            except REDIS_ERRORS:
                continue
            except Exception:
                log.exception("a webhook could not be sent", extra={"action": "webhook.crashed"})


def start(store: JobStore, settings: JobSettings) -> threading.Event:
    """Starts the threads, if webhooks are enabled. Returns the event that ends them."""
    stop = threading.Event()
    if settings.webhook_secrets.get_secret_value():
        sender = WebhookSender(store, settings)
        for number in range(THREADS):
            thread = threading.Thread(target=sender.run, args=(stop,), name=f"webhooks-{number}", daemon=True)
            thread.start()
    return stop


def message(record: JobRecord) -> bytes:
    """The body of a message: the same for every attempt. Contains no text and no result."""
    ended = _time(record.finished_ms)
    data = {
        "id": record.id,
        "status": record.status,
        "total": record.total,
        "done": record.done,
        "failed": record.failed,
        "created_at": _time(record.created_ms),
        "started_at": _time(record.started_ms),
        "finished_at": ended,
        "model": record.model or None,
        "error": {"code": record.error_code, "detail": record.error} if record.error_code else None,
    }
    body = {"type": f"job.{record.status}", "timestamp": ended, "data": data}
    return json.dumps(body, separators=(",", ":")).encode()


def _in_time(look_up: Callable[[], str]) -> str:
    """What `look_up` returns or raises, or TimeoutError: a lookup has no limit, so it gets a thread."""
    found = Future[str]()

    def run() -> None:
        try:
            found.set_result(look_up())
        except Exception as error:
            found.set_exception(error)

    threading.Thread(target=run, name="webhook-lookup", daemon=True).start()
    return found.result(ATTEMPT_S)


def send(
    target: Target, address: str, body: bytes, headers: dict[str, str], limit_s: float = ATTEMPT_S
) -> Delivery:
    """Sends one request to an address that was checked. Follows no redirect and reads no body."""
    connection = _Pinned(target, address, limit_s)
    # Closes the connection of a receiver that sends its answer byte by byte.
    limit = threading.Timer(limit_s, connection.abort)
    limit.daemon = True
    limit.start()
    try:
        headers = {**headers, "host": target.authority, "content-type": "application/json"}
        connection.request("POST", target.path, body, headers | {"user-agent": "millrace"})
        status = connection.getresponse().status
        return Delivery(status, "" if 200 <= status < 300 else f"the receiver answered {status}")
    except (OSError, http.client.HTTPException) as error:
        return Delivery(error=_reason(error))
    finally:
        limit.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one address. The certificate must be valid for the name."""

    def __init__(self, target: Target, address: str, limit_s: float) -> None:
        super().__init__(target.host, target.port, timeout=limit_s)
        self._target = target
        self._address = address
        self._aborted = False

    def connect(self) -> None:
        self._use(socket.create_connection((self._address, self._target.port), self.timeout))
        if self._target.secure:
            context = ssl.create_default_context()
            # The first write begins the handshake: `abort` can only end it if it knows the socket of it.
            name = self._target.host
            self._use(context.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False))

    def abort(self) -> None:
        """Ends what the connection does now, or does next. May be called in another thread."""
        self._aborted = True
        if self.sock is not None:
            with suppress(OSError):
                # Not the method of a socket with TLS, which would remove the state that another thread uses.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _use(self, sock: socket.socket) -> None:
        self.sock = sock
        if self._aborted:
            raise TimeoutError


def _reason(error: Exception) -> str:
    """Why an attempt failed, without what the receiver sent."""
    if isinstance(error, AddressRefused):
        return f"the URL is refused: {error}"
    if isinstance(error, TimeoutError):
        return "the receiver did not answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {error.verify_message}"
    if isinstance(error, socket.gaierror):
        return "the host has no address"
    return f"the connection failed: {type(error).__name__}"


def _time(ms: int | None) -> str | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat()
