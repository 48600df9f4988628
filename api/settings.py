"""Settings of the HTTP edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from api.keys import parse_keys
from api.origins import is_loopback, parse_hosts
from api.rate_limit import parse_rate
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
    # Connections of one process; beyond them idle ones are closed, the oldest first.
    max_connections: int = Field(default=10_000, ge=16)
    # From the first part of a body of /predict to its last.
    body_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    # In-process cache in front of the shared one; 0 entries switches it off.
    local_cache_entries: int = Field(default=50_000, ge=0)
    local_cache_bytes: int = Field(default=32 * 1024**2, ge=0)
    # After SIGTERM: readiness goes first, then this long for requests in flight.
    drain_s: float = Field(default=15.0, ge=0, le=600)
    # Before that, how long the port stays open with readiness gone: what a load balancer needs to notice.
    quiet_s: float = Field(default=0.0, ge=0, le=120)
    # Addresses or networks of proxies, comma-separated, whose X-Forwarded-For and -Proto are believed.
    trust_proxy: str = ""
    # Texts that one client (API key, else address) may have waiting at once; 0: no limit.
    max_client_texts: int = Field(default=0, ge=0)
    # A client with no more texts than this waiting goes before those with more, when texts wait at all.
    first_client_texts: int = Field(default=32, ge=0)
    # Requests of one client at one process: 100/second, or several limits: 20/second;500/minute.
    rate_limit: str = ""
    # Accepted API keys, comma-separated: name:digest, the digest being SHA-256 in hex.
    api_keys: SecretStr = SecretStr("")
    # Whether everyone may ask where no key is set: auto means on loopback addresses only.
    open: Literal["auto", "true", "false"] = "auto"
    # Host names under which requests are answered, comma-separated; none: on a loopback address loopback
    # names, on any other every name.
    allowed_hosts: str = ""
    # The page at /.
    page: bool = True

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr) -> SecretStr:
        parse_keys(value.get_secret_value())
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        parse_hosts(value)
        return value

    @field_validator("trust_proxy")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        try:
            everybody = any(ip_network(part, strict=False).prefixlen == 0 for part in _parts(value))
        except ValueError as error:
            raise ValueError("proxies are addresses or networks: 127.0.0.1, 10.0.0.0/8") from error
        if everybody:
            raise ValueError("whoever trusts everybody believes what clients write themselves")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        try:
            parse_rate(value)
        except ValueError as error:
            raise ValueError("a rate is a number and a unit: 100/second, 20/second;500/minute") from error
        return value

    @model_validator(mode="after")
    def _check_budgets(self) -> Self:
        if self.default_budget_s > self.max_budget_s:
            raise ValueError(
                f"MILLRACE_DEFAULT_BUDGET_S={self.default_budget_s:g} is above "
                f"MILLRACE_MAX_BUDGET_S={self.max_budget_s:g}"
            )
        return self

    @model_validator(mode="after")
    def _check_open(self) -> Self:
        closed = self.open == "false" or (self.open == "auto" and not is_loopback(self.host))
        if closed and not self.key_names:
            raise ValueError(
                f"no API key is set, and with MILLRACE_OPEN={self.open} a service on {self.host} needs one: "
                "set MILLRACE_API_KEYS (`millrace key new NAME` makes a key), or MILLRACE_OPEN=true to let "
                "everyone ask"
            )
        return self

    @model_validator(mode="after")
    def _check_separate(self) -> Self:
        if self.separate_clients and not self.key_names:
            raise ValueError(
                "MILLRACE_SEPARATE_CLIENTS=true tells clients apart by MILLRACE_API_KEYS: set them"
            )
        return self

    @property
    def host_names(self) -> Sequence[str]:
        """Names under which requests are answered, beside loopback names and addresses; "*" for all."""
        return parse_hosts(self.allowed_hosts) or (() if is_loopback(self.host) else ("*",))

    @property
    def trusted_proxies(self) -> list[str]:
        """Networks of the proxies that are believed. The client is the last address that is none of them."""
        return [str(ip_network(part, strict=False)) for part in _parts(self.trust_proxy)]

    @property
    def key_names(self) -> Mapping[str, str]:
        """Digest -> name of each accepted API key; empty: open to everyone."""
        return parse_keys(self.api_keys.get_secret_value())


def _parts(value: str) -> Sequence[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
