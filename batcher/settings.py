"""Settings of all processes that use the queue, read once at startup. Names include the unit.

Environment: prefix MILLRACE_, e.g. MILLRACE_LEASE_MS=2000. REDIS_URL is accepted for MILLRACE_REDIS_URL.
`millrace config` prints the text below each setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    Secret,
    SecretStr,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from batcher.connection.redis_url import check_url, is_cluster
from batcher.models import ModelSpec, parse_models, queue_of
from batcher.shards import MAX_SHARDS, Shard, shards_of
from batcher.webhook_security import Network, parse_networks, parse_secrets

# For how many days the usage of keys is kept by default.
USAGE_DAYS = 31

ServiceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
IS_EMPTY = "is empty: give it a value, or leave it out for its default"
# Types of settings that are written as text.
Models = Annotated[tuple[ModelSpec, ...], BeforeValidator(parse_models)]
Secrets = Annotated[Secret[Sequence[bytes]], BeforeValidator(parse_secrets)]
Networks = Annotated[Sequence[Network], BeforeValidator(parse_networks)]


class QueueSettings(BaseSettings):
    """Settings that the API, the workers and the jobs worker must share, and how they reach Redis.

    An empty value is the default if that is empty too, and is refused otherwise: Compose and Kubernetes set
    variables for which they have no value.
    """

    model_config = SettingsConfigDict(
        env_prefix="MILLRACE_",
        enable_decoding=False,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    may_be_empty: ClassVar[frozenset[str]] = frozenset()
    """Settings for which an empty value is a choice, and not the default."""

    name: ServiceName = "default"
    """Part of every key, so that services with different names can share a Redis."""
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("MILLRACE_REDIS_URL", "REDIS_URL", "redis_url"),
    )
    """The queue's Redis: redis://, rediss:// (TLS), redis+sentinel://host:port,host:port/service, unix://, or
    redis+cluster://host:port,host:port. Several URLs, separated by spaces: one shard at each."""
    shards: int = Field(default=1, ge=1, le=MAX_SHARDS)
    """Number of shards of the queue in a Redis Cluster. With several URLs, it is their number."""
    cache_url: SecretStr | None = None
    """A separate Redis for the cache, with any eviction policy. Default: the queue's Redis."""
    cache_ttl_s: float = Field(default=3600.0, ge=1, le=30 * 86400)
    """How long a result stays in the shared cache, varied by +-10 % for each key."""
    lease_ms: int = Field(default=2000, ge=200, le=60_000)
    """How long a worker may hold an entry without a heartbeat. A longer lease tolerates pauses; a shorter one
    recovers sooner."""
    max_attempts: int = Field(default=3, ge=1, le=10)
    """How many workers may die while they run a text alone before it is rejected as poison."""
    result_ttl_s: float = Field(default=60.0, ge=1, le=3600)
    """How long a result is kept for the API processes that wait for it."""
    max_waiting_cost: int = Field(default=200_000, ge=1)
    """Waiting cost, in estimated tokens, above which a lane sheds. Choose the workers' total tokens/s x the
    longest acceptable wait."""
    max_waiting_cost_bulk: int = Field(default=2_000_000, ge=1)
    """The same for the bulk lane."""
    host: str = "127.0.0.1"
    """Address to listen on: the API, and the ports of probes and metrics. `::`: all, of IPv6 and IPv4."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe messages that are logged."""
    log_format: Literal["json", "text", "auto"] = "auto"
    """The form of log lines. auto: text if stderr is a terminal, else json."""
    tracing: bool = False
    """Whether spans of requests, batches and jobs are sent to OTEL_EXPORTER_OTLP_ENDPOINT."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_empty(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if not isinstance(value, str) or value.strip() or name in cls.may_be_empty:
            return value
        default = cls.model_fields[name].default
        if default is None or str(default) == "":
            return default
        raise ValueError(IS_EMPTY)

    @field_validator("redis_url", "cache_url", "jobs_redis_url", check_fields=False)
    @classmethod
    def _check_urls(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            text = value.get_secret_value().strip()  # a file of a Secret often ends with a line break
            for url in text.split() if info.field_name == "redis_url" else [text]:
                check_url(url)
            return SecretStr(text)
        return value

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        urls = self.redis_urls
        clusters = [url for url in urls if is_cluster(url)]
        if clusters and len(urls) > 1:
            raise ValueError(
                "MILLRACE_REDIS_URL lists several URLs, one of which is a cluster: give it alone"
            )
        if len(set(urls)) < len(urls):
            raise ValueError("MILLRACE_REDIS_URL lists the same URL twice: each shard needs its own Redis")
        if len(urls) > 1 and self.shards not in (1, len(urls)):
            raise ValueError(
                f"MILLRACE_SHARDS={self.shards}, but MILLRACE_REDIS_URL lists {len(urls)} URLs: with a list, "
                "leave MILLRACE_SHARDS out"
            )
        if self.shards > 1 and len(urls) == 1 and not clusters:
            raise ValueError(
                f"MILLRACE_SHARDS={self.shards} needs several servers: a redis+cluster:// URL, or "
                f"{self.shards} URLs separated by spaces, in MILLRACE_REDIS_URL"
            )
        if self.cache_url is not None and is_cluster(self.cache_url.get_secret_value()):
            raise ValueError("MILLRACE_CACHE_URL must be a single Redis, not a cluster")
        return self

    @property
    def redis_urls(self) -> list[str]:
        """The URLs of the queue's Redis: several if each has one shard."""
        return self.redis_url.get_secret_value().split()

    @cached_property
    def queue_shards(self) -> tuple[Shard, ...]:
        """The shards of the queue; one if it is not sharded."""
        return shards_of(self.name, self.redis_urls, self.shards)

    def for_model(self, model: str) -> Self:
        """The settings of the queue of a model; "" is the first."""
        own = self.model_copy(update={"name": queue_of(self.name, model)})
        own.__dict__.pop("queue_shards", None)
        return own

    @property
    def cache_here(self) -> bool:
        """Whether the cache is in the queue's Redis."""
        return self.cache_url in (None, self.redis_url)

    def cache_address(self, shard: Shard) -> str:
        """The URL of the cache's Redis, for the texts of a shard."""
        return shard.url if self.cache_url is None else self.cache_url.get_secret_value()

    def cache_name(self, shard: Shard) -> str:
        """The name in the keys of cached results, for the texts of a shard."""
        return shard.cache_name if self.cache_here else self.name


class WorkerSettings(QueueSettings):
    """Settings of the worker: the model, its engine and the batches."""

    model: Models = Field(default="default", validate_default=True)
    """The model: default, stub, a directory, or org/name@revision, which must be pulled beforehand. Several,
    separated by commas, with names where their own do not fit: default,topics=./topics. The first is that of
    /predict; a dash in its place leaves it to other workers."""
    engine: Literal["auto", "torch", "openvino", "stub"] = "auto"
    """What runs the model. auto: the fastest one that is installed."""
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    """Arithmetic of the model. auto: the fastest one that passes the proof."""
    abstain: float = Field(default=0.0, ge=0, lt=1)
    """Score below which a model with two labels answers UNCERTAIN. 0: never."""
    text_windows: str = ""
    """How texts longer than a window are read: TOKENS[:OVERLAP[:JOIN]], or off. Empty: as the model says."""
    max_windows: int = Field(default=64, ge=1, le=4096)
    """Most windows of a text. What is beyond them is not read."""
    max_tokens: int = Field(default=8192, ge=16, le=8192)
    """Most tokens of a text that a model reads at once, if its files allow more."""
    threads: int = Field(default=0, ge=0, le=256)
    """Threads of the engine. 0: one for each core that this process may use, according to its cgroup."""
    artefact_dir: Path = Path("~/.cache/millrace")
    """Directory of built artefacts and compiled models."""
    window_ms: float = Field(default=5.0, ge=0, le=1000)
    """Longest wait for more entries after the first one of a batch. Skipped when waiting does not pay off."""
    bulk_wait_ms: float = Field(default=0.0, ge=0, le=1000)
    """Longest forward pass of bulk entries while interactive texts come, which wait for its end. 0: 1.5 times
    as long as that of an interactive text, at least 2 ms, or longer where such texts are rare. A longer one
    makes jobs faster, requests slower."""
    batch_tokens: int = Field(default=0, ge=0, le=1_000_000)
    """Tokens per forward pass, including padding if the engine pads. 0: measured at warm-up."""
    batch_texts: int = Field(default=256, ge=1, le=4096)
    """Most texts per claim."""
    batch_timeout_s: float = Field(default=30.0, ge=0.5, le=3600)
    """Longest time for a batch. A worker that takes longer stops its heartbeat and exits."""
    drain_s: float = Field(default=20.0, ge=0, le=600)
    """Time to finish the current batch after SIGTERM."""
    worker_port: int = Field(default=0, ge=0, le=65535)
    """Port of /metrics, /livez and /readyz of the worker. 0: disabled."""
    stub_batch_ms: float = Field(default=0.0, ge=0)
    """The stub classifier (model=stub): milliseconds per batch."""
    stub_token_ms: float = Field(default=0.0, ge=0)
    """The stub classifier (model=stub): milliseconds per token."""

    @field_validator("abstain")
    @classmethod
    def _check_abstain(cls, value: float) -> float:
        if 0 < value <= 0.5:
            raise ValueError("must be 0 or above 0.5, because one of two scores always reaches 0.5")
        return value


class JobSettings(QueueSettings):
    """Settings of the jobs worker and the /jobs routes, which run bulk work on RQ."""

    jobs_redis_url: SecretStr | None = None
    """A separate Redis for jobs, which may be a cluster. Default: the queue's Redis."""
    job_ttl_s: int = Field(default=86_400, ge=60, le=30 * 86_400)
    """How long the status and results of a job are kept after it has ended."""
    job_timeout_s: int = Field(default=6 * 3600, ge=1)
    """Longest time that a job may run, without the time in which its model cannot answer."""
    job_in_flight: int = Field(default=512, ge=1, le=65_536)
    """How many texts of the large jobs of a model may wait or run at once, and as many of small ones."""
    separate_clients: bool = False
    """Whether results are shared only between requests with the same API key name."""
    keep_refused_texts: bool = False
    """Whether refused texts (poison, inference_failed) are kept for a week, to show and retry them."""
    refuse_unknown: bool = False
    """Whether texts are refused of which the model does not know more than half of the pieces."""
    max_waiting_jobs: int = Field(default=2000, ge=1)
    """How many jobs may wait before new ones are refused with 429; half as many of one client."""
    max_jobs_bytes: int = Field(default=384 * 1024**2, ge=1024)
    """Texts and results that all jobs may keep in Redis."""
    max_client_jobs_bytes: int = Field(default=192 * 1024**2, ge=1024)
    """The same for one client."""
    jobs_port: int = Field(default=0, ge=0, le=65535)
    """Port of /metrics, /livez and /readyz of the jobs worker. 0: disabled."""
    usage_days: int = Field(default=USAGE_DAYS, ge=1, le=400)
    """For how many days the usage of each key is kept."""
    webhook_secrets: Secrets = Field(default="", validate_default=True)
    """Comma-separated keys that sign webhooks: whsec_ and base64. If empty, jobs cannot have a webhook."""
    webhook_networks: Networks = Field(default="", validate_default=True)
    """Comma-separated addresses or networks that webhooks may be sent to although they are not public."""

    @property
    def jobs_url(self) -> str:
        """The URL of the Redis that stores jobs and RQ's keys: by default, the first of the queue's."""
        return self.redis_urls[0] if self.jobs_redis_url is None else self.jobs_redis_url.get_secret_value()
