"""The services of crossings: their settings, what operators have decided in them, and what may answer."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import redis

from api.dialect_names import DIALECTS
from model_store import load
from model_store.abstain import Abstaining
from model_store.classifier import Classifier
from model_store.stub import MAX_TOKENS, StubClassifier
from model_store.windows import MAX_WINDOWS, read_windows
from tests.crossings.record import Exchange
from tests.crossings.situations import BLOCK, Situation
from tests.servers import RedisServer, contents, leftovers
from tests.service import Process, Service, millrace, wait_until
from tests.signing import SIGNED, Checker, Revision

# Two of these are drawn; the others are held back, have a small quota for one situation, or only look on.
CLIENTS = ("web", "other")
QUOTA = 3
SMALL = [f"small-{number}" for number in range(2 * BLOCK)]
KEYS = {name: f"the-key-of-{name}" for name in (*CLIENTS, "held", *SMALL, "bystander", "repeater")}
# A job lives so long after its last change; the shortest that the settings allow.
JOB_TTL_S = 60
CHANGING = ("left_s", "workers", "rate", "remaining_s", "failure")
READY_S = 90.0
# Every process knows of a pause or a hold after this time.
KNOWN_S = 2.0
# Clocks must agree better than an hour: docs/several-models.md.
AHEAD_S = 3000
# Less, so that a decision that a host's clock ends is seen.
DECIDED_S = 1800
QUICK = "quick"
THRESHOLD = 0.4


@dataclass(frozen=True)
class Version:
    """What a worker can be started with: its settings, and how to make the revisions that it answers by.

    `serve` is what these settings make of a stub.
    """

    settings: Mapping[str, object]
    make: Callable[[], tuple[Revision, ...]]
    serve: Callable[[StubClassifier], Classifier] = lambda stub: stub

    @cached_property
    def revisions(self) -> tuple[Revision, ...]:
        return self.make()

    def published(self, reference: str) -> Revision:
        """What answers once this stub is published."""
        stub = StubClassifier(variant=reference.partition("@")[2])
        return Revision(reference, classifier=self.serve(stub))


def signed(*names: str, model: str = "stub") -> tuple[Revision, ...]:
    return tuple(Revision(f"{SIGNED}-{name}", model) for name in names)


def _model(name: str) -> Version:
    return Version({"model": f"{SIGNED}-{name}"}, lambda: signed(name))


def _engine() -> Version:
    """The embedded model in f32, whose scores depend on the batch by a millionth."""

    def make() -> tuple[Revision, ...]:
        classifier = load("default", engine="openvino", precision="f32", threads=1)
        return (Revision("default", classifier=classifier, tolerance=1e-4),)

    return Version({"model": "stub=default", "engine": "openvino", "precision": "f32"}, make)


def _abstaining(threshold: float) -> Version:
    classifier = Abstaining(StubClassifier(), threshold)
    settings = {"model": "stub", "abstain": threshold}
    return Version(settings, lambda: (Revision(f"stub abstain {threshold}", classifier=classifier),))


def _in_windows(setting: str) -> Version:
    windows = read_windows(setting, most=MAX_WINDOWS, max_tokens=MAX_TOKENS)
    assert windows is not None

    def serve(stub: StubClassifier) -> Classifier:
        stub.read_in(windows)
        return stub

    settings = {"model": f"{SIGNED}-98", "text_windows": setting}
    classifier = serve(StubClassifier(variant="signed-98"))
    return Version(settings, lambda: (Revision(f"windows {setting}", classifier=classifier),), serve)


_SEVERAL = Version(
    {"model": f"{SIGNED}-98,topics={SIGNED}-23"}, lambda: (*signed("98"), *signed("23", model="topics"))
)
_CASCADE = Version(
    {"model": f"{SIGNED}-98,large={SIGNED}-799"}, lambda: (*signed("98"), *signed("799", model="large"))
)
# The second has the labels of the first in another order.
_TWO = (_model("98"), _model("39"))


@dataclass(frozen=True, slots=True)
class Kind:
    """A service. A worker of the first version is replaced by one of the second, if there is one.

    `published` are references that follow one another before the first situation, `candidate` what is tried
    beside the last of them.
    """

    versions: tuple[Version, ...] = _TWO
    settings: Mapping[str, object] = field(default_factory=dict)
    models: tuple[str, ...] = ("stub",)
    published: tuple[str, ...] = ()
    candidate: Mapping[str, object] = field(default_factory=dict)
    shards: int = 1
    own_cache: bool = False
    paused: bool = False
    long_texts: bool = False


KINDS = {
    "plain": Kind(),
    "several models": Kind((_SEVERAL,), models=("stub", "topics")),
    "moved": Kind((_model("98"),), published=("799", "39", "10")),
    "share": Kind((_model("98"),), candidate={"reference": "799", "share": 0.5}),
    "shadow": Kind((_model("98"),), candidate={"reference": "799", "share": 0.5, "shadow": True}),
    "cascade": Kind(
        (_CASCADE,), {"cascades": f"{QUICK}=stub:large:{THRESHOLD}"}, models=("stub", "large", QUICK)
    ),
    "engine": Kind((_engine(),)),
    "abstain": Kind((_abstaining(0.7), _abstaining(0.9))),
    "windows": Kind((_in_windows("16:4:mean"), _in_windows("18:4:mean")), long_texts=True),
    "best first": Kind(settings={"label_order": "score"}),
    "clients": Kind(
        settings={"separate_clients": "true", "quotas": ",".join(f"{name}={QUOTA}" for name in SMALL)}
    ),
    "paused": Kind(paused=True),
    "shards": Kind(shards=3),
    "own cache": Kind(own_cache=True),
}
_COMMON: dict[str, object] = {
    "compat": ",".join(DIALECTS),
    "stub_batch_ms": 5,
    "batch_texts": 4,
    "lease_ms": 500,
    "default_budget_s": 20,
    "job_ttl_s": JOB_TTL_S,
    "webhook_secrets": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
}


class Backing:
    """The Redis servers of a service, as they ship. Used by `Service` like one of them."""

    def __init__(self, binary: Path, kind: Kind) -> None:
        self.queue = [RedisServer(binary) for _ in range(kind.shards)]
        self.cache = [RedisServer(binary)] if kind.own_cache else []
        self.every = [*self.queue, *self.cache]
        for server in self.every:
            server.start()

    @property
    def url(self) -> str:
        return " ".join(server.url for server in self.queue)

    def client(self) -> redis.Redis:
        return self.queue[0].client()

    def restart(self) -> None:
        """As an operator does: each is stopped and started."""
        for server in self.every:
            server.stop()
        for server in self.every:
            # What it has lost is for the promises to notice.
            with contextlib.suppress(AssertionError):
                server.start()
            assert server.running, server.log()

    def close(self) -> None:
        for server in self.every:
            server.close()


class Crossed(Service):
    """A running service of one kind, and what is right in it now."""

    def __init__(self, name: str, binary: Path) -> None:
        self.kind = kind = KINDS[name]
        self.name = name
        self.backing = Backing(binary, kind)
        self.passwords: dict[str, str] = {}
        self.version = kind.versions[0]
        more: dict[str, object] = {"cache_url": self.backing.cache[0].url} if kind.own_cache else {}
        settings = {**_COMMON, **kind.settings, **self.version.settings, **more, "api_keys": api_keys()}
        super().__init__(self.backing, settings)  # type: ignore[arg-type]
        others = [*signed(*kind.published)]
        if kind.candidate:
            others += signed(str(kind.candidate["reference"]))
        every = [*(one for version in kind.versions for one in version.revisions), *others]
        self.checker = Checker(
            list({one.name: one for one in every}.values()),
            separate="separate_clients" in kind.settings,
        )
        self.began = time.monotonic()
        # Clients that have used nothing of their quotas.
        self.small = SMALL.copy() if "quotas" in kind.settings else []
        # Whether something is left that a later situation would notice.
        self.used_up = False
        # Jobs that wait for the end of a pause, with the situations that made them.
        self.waiting: list[tuple[Situation, Exchange]] = []
        # Texts that every publication has answered.
        self.remembered = [f"remembered {number} {time.monotonic_ns()}" for number in range(20)]
        self.worker = self.start_worker()
        self.jobs = self.start_jobs()
        self.heal()
        self._decide()
        time.sleep(KNOWN_S)
        self.decided = self.decisions()

    # -- what operators decide -----------------------------------------------------------------------

    def _decide(self) -> None:
        for reference in self.kind.published:
            self.publish(f"{SIGNED}-{reference}")
            for text in self.remembered:
                body = {"text": [text]}
                assert self.http.post("/predict", json=body, headers=key_of("web")).is_success
        if candidate := dict(self.kind.candidate):
            reference = candidate.pop("reference")
            number = self._loaded(f"{SIGNED}-{reference}")
            self.change("POST", "models/candidate", {"number": number, **candidate})
        if self.kind.published:
            former = [*self.version.revisions, *signed(*self.kind.published[:-1])]
            self.checker.settled(*(one.reference for one in former), at=time.monotonic())
        if self.kind.paused:
            self.pause(True)
        hold = {"client": "key:held", "what": "all", "for_s": DECIDED_S}
        self.change("POST", "clients/hold", hold)

    def pause(self, paused: bool) -> None:
        """Pauses the lane of jobs, or ends that."""
        body = {"waiting": "keep", "for_s": DECIDED_S}
        self.change("PUT" if paused else "DELETE", "pauses/bulk", body if paused else None)

    def change(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        """What the console says of an action that it has acknowledged."""
        answer = self.http.request(method, f"/admin/{path}", json=body)
        assert answer.is_success, f"{method} /admin/{path}: {answer.status_code} {answer.text}"
        return answer.json()

    def _loaded(self, reference: str) -> int:
        """Publishes a revision. Returns its number once the worker serves it."""
        number = self.change("POST", "models/publish", {"reference": reference})["number"]

        def loaded() -> bool:
            revisions = self.http.get("/admin/models").json()["models"]["stub"]["revisions"]
            return bool(revisions.get(str(number), {}).get("workers"))

        wait_until(loaded, f"{reference} to be loaded", 60)
        return int(number)

    def publish(self, reference: str) -> None:
        """Publishes a revision, and lets it answer."""
        number = self._loaded(reference)
        self.change("POST", "models/move", {"number": number})

    def decisions(self) -> Any:
        """What operators have decided, as the console shows it."""
        facts = [self.http.get(f"/admin/{path}").json() for path in ("pauses", "models", "clients")]
        pauses, models, clients = facts
        return _lasting([pauses, models["models"], clients["held"]])

    # -- what happens to it --------------------------------------------------------------------------

    def environment_of(self, command: str) -> dict[str, str]:
        environment = super().environment_of(command)
        for role, password in self.passwords.items():
            environment = {
                name: value.replace(f"{role}:{role}@", f"{role}:{password}@")
                for name, value in environment.items()
            }
        return environment

    def start_ahead(self, command: str, **settings: object) -> Process:
        """A worker or an API on a host whose clock is ahead."""
        (self.folder / "sitecustomize.py").write_text(
            f"import time\n_real = time.time\ntime.time = lambda: _real() + {AHEAD_S}\n"
        )
        own = {f"MILLRACE_{name.upper()}": str(value) for name, value in settings.items()}
        paths = ":".join([str(self.folder), *sys.path])
        environment = {**self.environment_of(command), **own, "PYTHONPATH": paths}
        made = Process(f"{command}-{time.monotonic_ns()}", millrace(command), environment, self.folder)
        self.processes.append(made)
        return made

    def heal(self) -> None:
        """Starts what has ended, and returns when all is ready."""
        for server in self.backing.every:
            if not server.running:
                server.start()
        if not self.api.running:
            self.start_api()
        if not self.worker.running:
            self.worker = self.start_worker(**self.version.settings)
        if not self.jobs.running:
            self.jobs = self.start_jobs()
        wait_until(self._ready, "the service to be ready", READY_S)

    def _ready(self) -> bool:
        try:
            if self.http.get("/readyz").status_code != 200:
                return False
            found = {one["name"] for one in self._models() if one["state"] == "ready"}
        except (httpx.TransportError, LookupError, ValueError):
            return False
        return found.issuperset(self.kind.models) and self._publications_ready()

    def _publications_ready(self) -> bool:
        """Whether workers serve what answers for each model, and its candidate."""
        for model in self.http.get("/admin/models").json()["models"].values():
            numbers = [model["current"], *([model["candidate"]["number"]] if model["candidate"] else [])]
            if not all(model["revisions"][str(number)]["workers"] for number in numbers):
                return False
        return True

    def _models(self) -> list[dict[str, Any]]:
        found = self.http.get("/models", headers=key_of("bystander")).json()
        return [*found["models"], *found.get("cascades", [])]

    def replace_worker(self, version: Version) -> Iterator[None]:
        """Starts another worker; then stops the former, once the caller goes on."""
        old = self.worker
        self.worker = self.another_worker(**version.settings)
        for one in version.revisions:
            self.checker.settled(one.reference, at=math.inf)
        yield
        assert old.stop() == 0, old.said()[-2000:]
        former, self.version = self.version, version
        if gone := {one.reference for one in former.revisions} - {one.reference for one in version.revisions}:
            self.answers(version.revisions[0].name)
            time.sleep(KNOWN_S)  # jobs workers read once a second, too, what their model is
            self.checker.settled(*gone, at=time.monotonic())

    def another_worker(self, *, ahead: bool = False, **settings: object) -> Process:
        """One more worker, once it is ready; or one on a host whose clock is `ahead`."""
        before = self._worker_ids()
        made = self.start_ahead("worker", **settings) if ahead else self.start_worker(**settings)
        wait_until(lambda: self._worker_ids() - before, "another worker", READY_S)
        return made

    def _worker_ids(self) -> set[bytes]:
        """Those of workers that have a record at any shard: one gets to further shards later."""
        with self.backing.client() as client:
            keys = client.scan_iter("{millrace:2:default*}:worker:*", count=1000)
            return {key.rpartition(b":")[2] for key in keys}

    def answers(self, name: str) -> None:
        """Returns when a text that was not sent before is answered by this revision."""

        def answered() -> bool:
            body = {"text": [f"which one answers {time.monotonic_ns()}"]}
            answer = self.http.post("/predict", json=body, headers=key_of("bystander"))
            return answer.headers.get("x-model") == name

        wait_until(answered, f"{name} to answer", 60)

    def contents(self) -> Iterator[tuple[str, str]]:
        """Every key of every Redis, and what it has."""
        for server in self.backing.every:
            with server.client() as client:
                for key, value in contents(client).items():
                    yield key.decode("utf-8", "replace"), repr(value)

    def leftovers(self) -> list[bytes]:
        """What is still in the queue."""
        found: list[bytes] = []
        for server in self.backing.queue:
            with server.client() as client:
                found += leftovers(client)
        return found

    def endings(self) -> list[str]:
        """Processes that ended by themselves, and tracebacks."""
        found = [
            f"{one.name} has ended: {one.said()[-600:]}"
            for one in (self.api, self.worker, self.jobs)
            if not one.running
        ]
        for one in self.processes:
            said = one.said()
            if "Traceback" in said:
                at = said.index("Traceback")
                found.append(f"{one.name}: {said[max(at - 300, 0) : at + 1500]}")
        return found

    def close(self) -> None:
        super().close()
        self.backing.close()


def api_keys(*without: str) -> str:
    """The setting, without those that are revoked."""
    names = [name for name in KEYS if name not in without]
    return ",".join(f"{name}:{sha256(KEYS[name].encode()).hexdigest()}" for name in names)


def key_of(client: str) -> dict[str, str]:
    """The header by which a client is known."""
    return {"authorization": f"Bearer {KEYS[client]}"}


def _lasting(facts: Any) -> Any:
    """The same without what changes by itself."""
    if isinstance(facts, dict):
        return {name: _lasting(value) for name, value in facts.items() if name not in CHANGING}
    return [_lasting(fact) for fact in facts] if isinstance(facts, list) else facts


def cascade_members(rows: Sequence[str], revision: Revision) -> list[bool]:
    """Which texts the first model of the cascade is sure of."""
    return [max(revision.scores(text).values()) >= THRESHOLD for text in rows]
