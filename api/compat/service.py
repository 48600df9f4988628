"""Classifies the texts of a dialect's request by the same steps as /predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import from_json
from starlette.types import Receive

from api.asgi.http import check_json, check_size
from api.auth import Authenticator
from api.compat.fields import ignored_in, models_in
from api.compat.reading import parse, refused
from api.errors import Header, Problem, not_started
from api.health import why_not_ready
from api.lifecycle import Lifecycle
from api.models.cascade import members_of
from api.models.served import Served, ServedModels
from api.predict.handler import Predictor
from api.predict.request import RequestContext
from api.settings import ApiSettings
from batcher.core.snapshot import ModelRecord
from batcher.lookup.queue import Result
from batcher.messages import Prediction

M = TypeVar("M", bound=BaseModel)
HOW_TO_NAME = "docs/clients.md says how clients of this service name a model"
# A label and its score, in the order of the label ids.
Scores = Sequence[tuple[str, float]]
# Results whose scores are kept decoded, if they have at most so many bytes: a common one costs less than its
# lookup otherwise.
_DECODED = 1024
_DECODED_BYTES = 1024


@dataclass(slots=True)
class Call:
    """One request. `body` is set if it has been read already.

    `model` is the name in its path, and `served` its model, once the name has been found. `named` is
    what its body calls the model in fields that the dialect does not have. `ignored` are the places of fields
    without effect.
    """

    context: RequestContext
    receive: Receive
    model: str = ""
    served: Served | None = None
    body: bytes | None = None
    named: Sequence[Any] = ()
    ignored: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Classified:
    """The results of the texts in order, and the headers that /predict would have sent.

    All results are of one `revision`, so they have the same labels in the same order; of a cascade, too.
    """

    texts: Sequence[str]
    results: Sequence[Result]
    scores: Sequence[Scores]
    computed: Sequence[Prediction]
    headers: list[Header]
    total_s: float
    model: str
    revision: str
    # What workers published about that revision; None if this process has not seen it.
    record: ModelRecord | None

    @property
    def tokens(self) -> list[int]:
        """Tokens of each text that the model read."""
        return [result.tokens for result in self.results]

    @property
    def truncated(self) -> list[bool]:
        """Which texts were longer than the model can read."""
        return [bool(result.truncated) for result in self.results]

    @property
    def time_headers(self) -> list[Header]:
        """Those of text-embeddings-inference, in milliseconds: the slowest of all texts."""

        def slowest(name: str) -> int:
            return round(max((getattr(run, name) for run in self.computed), default=0.0))

        figures = {
            b"x-compute-characters": sum(map(len, self.texts)),
            b"x-compute-tokens": sum(self.tokens),
            b"x-compute-time": round(self.total_s * 1e3),
            b"x-total-time": round(self.total_s * 1e3),
            b"x-tokenization-time": slowest("tokenize_ms"),
            b"x-queue-time": slowest("queue_ms"),
            b"x-inference-time": slowest("model_ms"),
        }
        return [(name, b"%d" % figure) for name, figure in figures.items()]

    @property
    def tokens_header(self) -> Header:
        """For dialects whose answers have no place for the number of tokens."""
        return (b"x-tokens", b"%d" % sum(self.tokens))


def _scores(fragment: bytes) -> Scores:
    return kept_scores(fragment) if len(fragment) <= _DECODED_BYTES else _decoded(fragment)


def _decoded(fragment: bytes) -> Scores:
    return tuple([(pair["label"], pair["score"]) for pair in from_json(fragment)])


kept_scores = lru_cache(maxsize=_DECODED)(_decoded)


@dataclass(frozen=True, slots=True)
class DialectService:
    """What a request needs between its bytes and its results. Shared with /predict."""

    settings: ApiSettings
    predictor: Predictor
    models: ServedModels
    auth: Authenticator
    lifecycle: Lifecycle

    async def read(self, call: Call, model: type[M]) -> M:
        """The JSON body. Raises Problem for one that /predict would refuse too, or that is not a `model`."""
        body = call.body
        if body is None:
            check_json(call.context.headers)
            body = await self.read_bytes(call)
        call.body = None
        return self.parse(call, body, model)

    def parse(self, call: Call, body: bytes, model: type[M]) -> M:
        """The body as `model`; notes in the call which of its fields have no effect. Raises Problem."""
        found = parse(body, model)
        call.ignored += ignored_in(found)
        call.named = models_in(found)
        return found

    async def read_bytes(self, call: Call) -> bytes:
        """The body, decompressed. Raises Problem if it is too large or too slow, or has another encoding."""
        return await self.predictor.bodies.read(call.context.headers, call.receive)

    async def classify(
        self, call: Call, texts: list[str], budget_s: float | None = None, *, least: int = 0
    ) -> Classified:
        """The answer has at least `least` bytes, whatever the results. Raises as `Predictor.find`."""
        self.predictor.reader.check(texts)
        check_size(least, self.settings.max_answer_bytes)
        # Looked up once: while the texts are computed, the name may move to another revision.
        served = self.served(call)
        if any(type(name) is not str or self.find(name) is not served for name in call.named):
            raise refused(f"model: {served.name} would answer; {HOW_TO_NAME}", "model")
        context, lookup = call.context, served.lookup
        context.texts = texts
        if budget_s is None:
            budget_s = self.predictor.budget_s(context.headers.preference)
        results, headers = await self.predictor.find(
            lookup, context, call.receive, budget_s, one_revision=True
        )
        total_s = perf_counter() - context.started
        answer = context.answer
        computed = [*answer.computed.values()] if answer is not None else []
        scores = [_scores(result.fragment) for result in results]
        cascade = answer.cascade if answer is not None else None
        revision = results[0].revision if cascade is None else cascade.revision
        record = cascade or lookup.models.record(revision)
        return Classified(texts, results, scores, computed, headers, total_s, served.name, revision, record)

    def served(self, call: Call) -> Served:
        """The model that a request is for: the first one, unless it names another."""
        return call.served or self.models.current

    def labels(self, call: Call) -> Sequence[str]:
        """The labels of the model that a request is for; none while they are not known."""
        return published.labels if (published := self.served(call).lookup.models.published) else ()

    def model(self, call: Call) -> ModelRecord:
        """What workers published about the model of a request. Raises Problem 503 before the first one."""
        model = self.served(call).hub.snapshot.model
        if model is None:
            raise Problem(503, "no worker is running", code="no_worker")
        return model

    def check_started(self) -> None:
        """Raises Problem 503 if the lifespan of the application has not begun."""
        if not self.lifecycle.started:
            raise not_started()

    def check_ready(self, call: Call) -> None:
        """Raises Problem 503 unless a request sent now would be answered, by the model that is asked for."""
        if (problem := self.why_not_ready(call.served or self.models.first)) is not None:
            raise problem

    def why_not_ready(self, served: Served) -> Problem | None:
        """Why a request for a model would not be answered now; None if it would."""
        problem = why_not_ready(served.hub, self.lifecycle)
        members = members_of(served) if problem is not None and problem.code == "no_worker" else None
        why = members.mismatch() if members is not None else None
        return problem if why is None else Problem(503, str(why), code=why.code)

    def choose_by_path(self, call: Call, name: str) -> None:
        """As `find`, for a name in a path. Also raises Problem 404 for a route that no model has."""
        above, _, last = name.rpartition("/")
        known = name in self.settings.compat_models or self.models.get(name) is not None
        if above and not known and self.models.get(above) is not None:
            hint = f"did you mean /jobs?model={above}? " if last == "jobs" else ""
            raise Problem(404, f"no such route of the model {above}; {hint}/docs lists all routes")
        call.served = self.find(name)

    def find(self, name: str | None, *, of_first: bool = False) -> Served:
        """The model of a name that a client uses. Raises Problem 404 if it is not served.

        `of_first`: if no model has this name, it stands for the first one.
        """
        names = self.settings.compat_models
        found = self.models.get(name) if name else self.models.current
        if found is None:
            assert name, "the first model is found without a name"
            alias = of_first or name in names or "*" in names
            if self.models.ambiguous(name) or (self.models.names and not alias):
                raise self.models.unknown(name, "; MILLRACE_COMPAT_MODELS adds names for the first one")
            found = self.models.current
        return found
