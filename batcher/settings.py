"""Settings of everything that touches the queue. Read once at the start, typed, units in the names.

Environment: prefix MILLRACE_, e.g. MILLRACE_LEASE_MS=2000. REDIS_URL is accepted for MILLRACE_REDIS_URL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

ServiceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class QueueSettings(BaseSettings):
    """What the API, the workers and the jobs worker must agree on, and how they reach Redis."""

    model_config = SettingsConfigDict(env_prefix="MILLRACE_", extra="ignore", frozen=True)

    # The hash tag of every key: services with different names share a Redis without meeting.
    name: ServiceName = "default"
    # redis://, rediss:// (TLS), redis+sentinel://host:port,host:port/service-name or unix://
    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        validation_alias=AliasChoices("MILLRACE_REDIS_URL", "REDIS_URL", "redis_url"),
    )
    # Another Redis for the cache, evicting as it likes; the queue's own when empty.
    cache_url: SecretStr | None = None
    # How long a result is remembered in the shared cache; each key's end is spread by +-10 %.
    cache_ttl_s: float = Field(default=3600.0, ge=1, le=30 * 86400)
    # How long a worker may hold an entry without a heartbeat: longer tolerates pauses, shorter recovers
    # sooner.
    lease_ms: int = Field(default=2000, ge=200, le=60_000)
    # How many workers may end while they run a text alone before it is called poison.
    max_attempts: int = Field(default=3, ge=1, le=10)
    # How long a per-request result key stays for the API that waits on it.
    result_ttl_s: float = Field(default=60.0, ge=1, le=3600)
    # Waiting cost, in estimated tokens, above which a lane sheds: about tokens/s of all workers x longest
    # wait.
    max_waiting_cost: int = Field(default=200_000, ge=1)
    max_waiting_cost_bulk: int = Field(default=2_000_000, ge=1)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # json for machines, text for a terminal, auto to choose by what stderr is.
    log_format: Literal["json", "text", "auto"] = "auto"
    # Spans of requests, batches and jobs by OpenTelemetry, sent where OTEL_EXPORTER_OTLP_ENDPOINT says.
    tracing: bool = False

    @property
    def cache_here(self) -> bool:
        """Whether the cache lies in the queue's own Redis."""
        return self.cache_url in (None, self.redis_url)

    @property
    def cache_address(self) -> str:
        """URL of the Redis that holds the cache."""
        return (self.cache_url or self.redis_url).get_secret_value()


class WorkerSettings(QueueSettings):
    """The worker: which model, on what, in which batches."""

    # default, a directory, or org/name@revision pulled and built beforehand
    model: str = "default"
    engine: Literal["auto", "torch", "openvino", "stub"] = "auto"
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    # Engine threads; 0: the cores this process may use (cgroup-aware).
    threads: int = Field(default=0, ge=0, le=256)
    # Where built artefacts and compiled models are kept.
    artefact_dir: Path = Path("~/.cache/millrace")
    # Longest time from the first entry until the batch closes. It is only used while worth it.
    window_ms: float = Field(default=5.0, ge=0, le=1000)
    # Tokens of one forward pass; 0: learnt at warm-up. Padding counts where the engine pads.
    batch_tokens: int = Field(default=0, ge=0, le=1_000_000)
    # Texts of one claim at most.
    batch_texts: int = Field(default=256, ge=1, le=4096)
    # Longest sane batch: after this a hanging process stops its heartbeat and ends itself.
    batch_timeout_s: float = Field(default=30.0, ge=0.5, le=3600)
    # After SIGTERM: time to finish the batch in hand.
    drain_s: float = Field(default=20.0, ge=0, le=600)
    # Port of /metrics, /livez and /readyz; 0: none.
    worker_port: int = Field(default=0, ge=0, le=65535)
    # The stub classifier (model=stub): milliseconds per batch and per token.
    stub_batch_ms: float = Field(default=0.0, ge=0)
    stub_token_ms: float = Field(default=0.0, ge=0)


class JobSettings(QueueSettings):
    """The jobs worker and the /jobs routes: bulk work on RQ."""

    # Another Redis for jobs, which must be no cluster; the queue's own when empty.
    jobs_redis_url: SecretStr | None = None
    # One TTL for status, input and results of a job.
    job_ttl_s: int = Field(default=86_400, ge=60, le=30 * 86_400)
    # Longest run of one job.
    job_timeout_s: int = Field(default=6 * 3600, ge=1)
    # Texts of one job that may wait or run at the same time.
    job_in_flight: int = Field(default=512, ge=1, le=65_536)
    # Each name of an API key has its own results, cached or under way.
    separate_clients: bool = False
    # Jobs that may wait before new ones are refused with 429.
    max_waiting_jobs: int = Field(default=1000, ge=1)
    # Bytes of texts and results that jobs may hold in Redis: all together, and those of one client.
    max_jobs_bytes: int = Field(default=384 * 1024**2, ge=1024)
    max_client_jobs_bytes: int = Field(default=192 * 1024**2, ge=1024)
    jobs_port: int = Field(default=0, ge=0, le=65535)

    @property
    def jobs_url(self) -> str:
        """Where jobs are kept: their texts, results and RQ's own keys."""
        return (self.jobs_redis_url or self.redis_url).get_secret_value()
