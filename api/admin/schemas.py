"""The bodies and queries of the routes under /admin. Unknown fields are refused with 422."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from batcher.admin.refused import CLIENT, RefusedFilter
from batcher.jobs.records import JobStatus

Text = Annotated[str, StringConstraints(max_length=1_000_000)]
Client = Annotated[str, StringConstraints(pattern=CLIENT)]
Revision = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{4,128}$")]
EntryId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# A name of a model, or nothing for the first one.
_Model = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._/-]{0,129})?$")]

LaneOrAll = Literal["interactive", "bulk", "all"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_width(cls, given: Any) -> Any:
        if isinstance(given, dict) and len(given) > 10_000:  # each unknown field would take a kilobyte
            raise ValueError("must not have more than 10,000 fields")
        return given


class _Strict(_Closed):
    model_config = ConfigDict(strict=True)


class Forget(_Strict):
    """What to forget: one of a text, a client and a revision."""

    text: Text | None = None
    client: Client | None = None
    revision: Revision | None = None
    # Clients whose results of the text may be separate, besides those of the configured keys.
    tenants: Annotated[list[Client], Field(max_length=1000)] = []

    @model_validator(mode="after")
    def _check_one(self) -> Forget:
        if sum(one is not None for one in (self.text, self.client, self.revision)) != 1:
            raise ValueError("must name exactly one of text, client and revision")
        return self


class RefusedQuery(_Closed, RefusedFilter):
    """Which refused texts; times in ms since 1970."""


class RefusedPage(RefusedQuery):
    """A page of the refused texts of a model, by default of the first."""

    model: _Model = ""
    limit: Annotated[int, Field(ge=1, le=1000)] = 50
    cursor: Annotated[str, StringConstraints(pattern=r"^(\d{13}:[0-9a-f]{64})?$")] = ""


class Selection(_Strict):
    """Refused texts of a model, by default of the first: some by id, or all that a filter matches."""

    model: _Model = ""
    ids: Annotated[list[EntryId], Field(min_length=1, max_length=1000)] | None = None
    filter: RefusedQuery | None = None

    @model_validator(mode="after")
    def _check_one(self) -> Selection:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("must have either ids or filter")
        return self


class LanePause(_Strict):
    """For how long a lane is paused, and what happens to the texts that wait in it."""

    waiting: Literal["keep", "refuse", "finish"] = "keep"
    for_s: Annotated[float, Field(gt=0, le=86_400)]


class HoldRequest(_Strict):
    """Which client is held back, for how long, and whether only texts are refused that no cache knows."""

    client: Client
    what: Literal["all", "uncached"] = "all"
    for_s: Annotated[float, Field(gt=0, le=7 * 86_400)]


class HoldEnd(_Strict):
    """The client whose hold ends."""

    client: Client


class UsageQuery(_Closed):
    """Which days (UTC, both included) and which key; by default all that are kept."""

    first: date = date(2000, 1, 1)
    last: date = date(9999, 12, 31)
    key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    format: Literal["json", "csv"] = "json"


class JobsQuery(_Closed):
    """Which jobs: by status, the beginning of the id, part of the file name, and the client."""

    status: JobStatus | None = None
    search: Annotated[str, StringConstraints(max_length=200)] = ""
    client: Annotated[str, StringConstraints(pattern=rf"{CLIENT}|^$")] = ""
    limit: Annotated[int, Field(ge=1, le=500)] = 50
    cursor: Annotated[str, StringConstraints(pattern=r"^(\d{16}:[0-9a-f]{32})?$")] = ""


class Publish(_Strict):
    """A model that workers are to load as its next publication: a directory, or org/name@commit."""

    model: _Model = ""
    reference: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f,]{1,1000}$")]


class Move(_Strict):
    """Which publication is to answer; the one before if there is no number."""

    model: _Model = ""
    number: Annotated[int, Field(ge=0)] | None = None


class TryOut(_Strict):
    """The share of a model's texts that a candidate gets; without a number, the candidate that it has.

    It answers them, or with `shadow` only computes them too. Without `by`, that does not change; it is `text`
    at first.
    """

    model: _Model = ""
    number: Annotated[int, Field(ge=1)] | None = None
    share: Annotated[float, Field(gt=0, le=1)]
    by: Literal["text", "client"] | None = None
    shadow: bool = False


class CompareQuery(_Closed):
    """The model whose comparison is wanted, by default with the counts of all pairs of labels."""

    model: _Model = ""
    labels: bool = True
