"""The parts of the application, and how they depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

from api.admin.forget import Memory
from api.admin.history import Minutes
from api.admin.publications import Confirming
from api.admin.service import Console, ConsoleStores
from api.admin.traces import Traces
from api.auth import Authenticator, ClientLimits
from api.compat.routes import OF_HEALTH, Compat
from api.compat.service import DialectService
from api.health import Health, why_no_answers
from api.jobs.routes import defer
from api.jobs.service import JobBackend, JobHooks, JobService
from api.lifecycle import Lifecycle
from api.metrics import Metrics
from api.models.candidates import Candidates
from api.models.cascade import cascades, job_labels, job_queue, job_waits_for, members_of
from api.models.routes import models_facts, queue_metrics
from api.models.served import ServedModel, ServedModels
from api.predict.handler import ROUTE, Alternatives, Deferral, PredictHandler, Predictor
from api.predict.request_log import RequestLog
from api.settings import ApiSettings
from api.stats.routes import Stats
from batcher.core.metrics import ByModel
from batcher.core.publications import model_of
from batcher.hub.hub import ReplyHub
from batcher.hub.shared_cache import connect_cache
from batcher.jobs.records import Used
from batcher.lookup.backend import Cache, Hub
from batcher.lookup.queue import LocalCache, Lookup, QueueLookup

# What an application has routes for, beside health, metrics, statistics and its pages. Each can be left out.
Capability = Literal["predict", "models", "jobs", "console", "dialects"]
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)


@dataclass(frozen=True, slots=True)
class Backends:
    """What is behind the application. Where it is None, it is a client of the Redis in the settings.

    `connect` opens the queue and the cache of another model than the first. `deferral` answers requests that
    prefer to become a job.
    """

    hub: Hub | None = None
    cache: Cache | None = None
    jobs: JobBackend | None = None
    stores: ConsoleStores | None = None
    connect: Callable[[str], tuple[Hub, Cache]] | None = None
    deferral: Deferral | None = None


@dataclass(eq=False)
class Parts:
    """The parts of one application, each made when it is first asked for.

    What a part needs is passed to its constructor. Where two need each other, one of them gets a function
    that asks for the other later.
    """

    settings: ApiSettings
    backends: Backends = field(default_factory=Backends)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    metrics_dir: Path | None = None
    without: Collection[Capability] = ()

    def __post_init__(self) -> None:
        self.hub = self.backends.hub or ReplyHub.connect(self.settings)
        self.cache = self.backends.cache or connect_cache(self.settings)

    def has(self, capability: Capability) -> bool:
        """Whether the application has the routes of this capability."""
        return capability not in self.without

    # -- what all capabilities use -----------------------------------------------------------------

    @cached_property
    def metrics(self) -> Metrics:
        queues = ByModel(lambda: queue_metrics(self.models))
        return Metrics(self.settings.default_budget_s, self.metrics_dir, queues)

    @cached_property
    def auth(self) -> Authenticator:
        call, sessions = self.console.call, self.console.stores.sessions
        return Authenticator(self.settings, partial(call, sessions.operator), partial(call, sessions.redeem))

    @cached_property
    def limits(self) -> ClientLimits:
        async def jobs_used(names: Sequence[str]) -> Used:
            return await self.jobs.call(self.jobs.store.used, names)

        return ClientLimits(self.settings, self.hub, jobs_used if self.has("jobs") else None)

    @cached_property
    def log(self) -> RequestLog:
        return RequestLog(self.metrics, self.limits.traffic)

    @cached_property
    def health(self) -> Health:
        ready = bool(OF_HEALTH & {*self.settings.compat}) and self.has("dialects")
        own = self.lifecycle
        return Health(
            self.metrics, lambda: why_no_answers(self.hub, own) if ready or not own.started else None
        )

    @cached_property
    def stats(self) -> Stats:
        return Stats(
            self.metrics,
            self.hub,
            self.jobs if self.has("jobs") else None,
            self.lifecycle,
            self.settings.lease_ms / 1000,
            model=lambda: self.models.current.hub.snapshot.model,
            models=lambda: models_facts(self.models),
            on_point=Minutes(self.console).take if self.has("console") else lambda point, snapshot: None,
            preparing=partial(self.console.call, self.console.stores.preparing.read)
            if self.has("console")
            else None,
        )

    def publish(self) -> None:
        """Follows what other processes have changed or asked, and publishes the counters of this one."""
        self.memory.follow()
        if self.has("console"):
            self.traces.follow()
        for members in filter(None, map(members_of, self.models.cascades.values())):
            members.follow()
        queues = self.models.queues
        self.metrics.publish(self.local, [one.hub for one in queues], [one.cache for one in queues])

    # -- predictions -------------------------------------------------------------------------------

    @cached_property
    def local(self) -> LocalCache:
        return LocalCache(self.settings.local_cache_entries, self.settings.local_cache_bytes)

    @cached_property
    def lookup(self) -> QueueLookup:
        ttl_s, keeps_refused = self.settings.cache_ttl_s, self.settings.keep_refused_texts
        return QueueLookup(self.hub, self.cache, self.local, self.limits, ttl_s, keeps_refused)

    @cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.settings, self.auth, self.limits, self.log, lambda: self.dialects.foreign_keys)

    @cached_property
    def predict(self) -> PredictHandler:
        return self._handle("", self.lookup)

    def _alternatives(self, model: str) -> Alternatives:
        deferral = self.backends.deferral
        if deferral is None and self.has("jobs"):
            deferral = partial(defer, self.jobs, model)
        # The dialects need the models, whose handlers need this.
        return Alternatives(
            deferral, lambda context, body, receive: self.dialects.answer(context, body, receive, model)
        )

    # -- models ------------------------------------------------------------------------------------

    @cached_property
    def models(self) -> ServedModels:
        return ServedModels(
            ServedModel("", self.hub, self.lookup, self.predict, self.cache),
            self._open_queue,
            divide=self.candidates.divide,
            make_cascades=lambda models: cascades(self.settings.cascades, models, self._handle, self.metrics),
            on_sweep=Confirming(self.console).confirm,
        )

    @cached_property
    def candidates(self) -> Candidates:
        store = partial(self.console.attempt, self.console.stores.comparisons.add)
        return Candidates(store, self._handle, self.metrics)

    def _open_queue(self, name: str) -> ServedModel:
        hub, cache = (self.backends.connect or self._connect)(name)
        lookup = self.lookup.for_model(hub, cache)
        return ServedModel(name, hub, lookup, self._handle(name, lookup), cache)

    def _connect(self, name: str) -> tuple[Hub, Cache]:
        own = self.settings.for_model(name)
        return ReplyHub.connect(own), connect_cache(own)

    def _handle(self, name: str, lookup: Lookup) -> PredictHandler:
        # The publications of the first model have its route.
        model = model_of(name)
        route = f"/models/{model}/predict" if model else ROUTE
        return PredictHandler(self.predictor, lookup, self.lifecycle, self._alternatives(model), route)

    # -- jobs --------------------------------------------------------------------------------------

    @cached_property
    def job_backend(self) -> JobBackend:
        return self.backends.jobs or JobBackend.connect(self.settings)

    @cached_property
    def jobs(self) -> JobService:
        hooks = JobHooks(
            draining=lambda: self.lifecycle.draining,
            check_client=partial(self.limits.check, job=True),
            reserve_texts=partial(self.limits.reserve, job=True),
            count_texts=self.limits.traffic.count_job,
            release_texts=self.limits.traffic.release,
            find_model=lambda name: job_queue(self.models, name),
            labels=lambda queue: job_labels(self.models, queue),
            waits_for=lambda queue: job_waits_for(self.models, queue),
        )
        return JobService(self.job_backend, self.settings, self.auth.keys, hooks)

    # -- console -----------------------------------------------------------------------------------

    @cached_property
    def console(self) -> Console:
        stores = self.backends.stores or ConsoleStores.connect(self.job_backend, self.settings)
        return Console(stores, lambda: self.hub.shards_up)

    @cached_property
    def traces(self) -> Traces:
        return Traces(self.console, self.models, self.log.recent)

    @cached_property
    def memory(self) -> Memory:
        clear = self.local.clear, self.log.recent.clear, self.candidates.forget
        return Memory(self.hub, clear, (self.predictor.held, self.candidates.held))

    # -- dialects ----------------------------------------------------------------------------------

    @cached_property
    def dialects(self) -> Compat:
        service = DialectService(self.settings, self.predictor, self.models, self.auth, self.lifecycle)
        names = self.settings.compat if self.has("dialects") else ()
        return Compat(service, self.health, names)
