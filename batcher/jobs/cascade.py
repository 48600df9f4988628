"""A cascade as jobs use it: two queues and their caches in place of one."""

from __future__ import annotations

from dataclasses import replace

from batcher.cascades import Cascade
from batcher.core.cascade import combined, in_order
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.errors import EntryFailed
from batcher.jobs.members import Joined, Member
from batcher.messages import Lane, Outcome, Prediction


class CascadeHub(Joined):
    """Asks `fast`, and `sure` for the texts that it is not sure of."""

    def __init__(self, cascade: Cascade, fast: Member, sure: Member) -> None:
        super().__init__(fast, sure)
        self._cascade = cascade

    @property
    def _models(self) -> tuple[ModelRecord | None, ModelRecord | None]:
        fast, sure = self._members
        return fast.hub.snapshot.model, sure.hub.snapshot.model

    @property
    def snapshot(self) -> Snapshot:
        """Only its model is set, once both members have one."""
        fast, sure = self._models
        model = combined(self._cascade, fast, sure) if fast is not None and sure is not None else None
        return replace(NO_SNAPSHOT, model=model)

    async def _find(
        self, texts: dict[str, str], *, budget_s: float, lane: Lane, trace: str
    ) -> dict[str, Outcome]:
        fast, sure = self._members
        found = await fast.classify(texts, budget_s=budget_s, lane=lane, trace=trace)
        rest = {one: texts[one] for one, outcome in found.items() if self._passes_on(outcome)}
        if rest:
            found |= await sure.classify(rest, budget_s=budget_s, lane=lane, trace=trace)
        return {one: self._own(outcome) for one, outcome in found.items()}

    def _passes_on(self, outcome: Outcome) -> bool:
        return isinstance(outcome, Prediction) and not self._cascade.trusts(outcome.fragment)

    def _own(self, outcome: Outcome) -> Outcome:
        """As an answer of the cascade, with its order of labels. It still names the model that answered."""
        model = self.snapshot.model
        if model is None or not isinstance(outcome, Prediction):
            return outcome
        try:
            return in_order(outcome, model.labels)
        except ValueError as error:
            return EntryFailed(str(error))
