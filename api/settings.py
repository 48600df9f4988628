"""Settings of the HTTP edge."""

from __future__ import annotations

from pydantic import Field, SecretStr

from batcher.settings import JobSettings


class ApiSettings(JobSettings):
    """The API: where it listens, what it accepts, what it remembers."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    # Processes sharing the port; more than one only pays with more cores than the workers use.
    processes: int = Field(default=1, ge=1, le=64)
    max_texts: int = Field(default=1024, ge=1)
    max_text_chars: int = Field(default=20_000, ge=1)
    max_body_bytes: int = Field(default=2 * 1024**2, ge=1024)
    max_job_body_bytes: int = Field(default=64 * 1024**2, ge=1024)
    # Budget of a request that states none, and the most that one may ask for (Prefer: wait=N).
    default_budget_s: float = Field(default=10.0, gt=0)
    max_budget_s: float = Field(default=60.0, gt=0)
    # In-process cache in front of the shared one; 0 entries switches it off.
    local_cache_entries: int = Field(default=50_000, ge=0)
    local_cache_bytes: int = Field(default=32 * 1024**2, ge=0)
    # After SIGTERM: readiness goes first, then this long for requests in flight.
    drain_s: float = Field(default=15.0, ge=0, le=600)
    # Texts that one client (API key, else address) may have waiting at once; 0: no limit.
    max_client_texts: int = Field(default=0, ge=0)
    # Comma-separated SHA-256 digests (hex) of accepted API keys; none: open.
    api_keys: SecretStr = SecretStr("")
    # The page at /.
    page: bool = True
