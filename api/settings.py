"""Settings of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from api.dialect_names import DEFAULTS, parse_categories, parse_dialects, parse_route, read_names
from api.keys import parse_keys, parse_quotas
from api.label_order import LabelOrder
from api.origins import is_loopback, parse_hosts
from api.rate_limit import parse_rate
from batcher.cascades import Cascade, parse_cascades
from batcher.settings import JobSettings


class ApiSettings(JobSettings):
    """Settings of the API: where it listens, what it accepts, what it caches."""

    may_be_empty = frozenset({"compat"})

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on."""
    processes: int = Field(default=1, ge=1, le=64)
    """Processes that share the port, which only help if there are more cores than the workers use."""
    max_texts: int = Field(default=1024, ge=1, le=1_000_000)
    """Most texts per request."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Most characters per text."""
    max_body_bytes: int = Field(default=2 * 1024**2, ge=1024)
    """Largest body of /predict."""
    max_answer_bytes: int = Field(default=4 * 1024**2, ge=1024)
    """Largest answer with results, in bytes as /predict writes them."""
    max_job_body_bytes: int = Field(default=64 * 1024**2, ge=1024)
    """Largest body of /jobs."""
    default_budget_s: float = Field(default=10.0, gt=0)
    """The budget of a request without Prefer: wait=N."""
    max_budget_s: float = Field(default=60.0, gt=0, le=86_400)
    """The largest N that is honoured in Prefer: wait=N."""
    max_connections: int = Field(default=10_000, ge=16)
    """Connections per process. Beyond this, idle connections are closed, the oldest first."""
    body_timeout_s: float = Field(default=60.0, gt=0, le=3600)
    """Time between the first and the last part of the body of a request to /predict."""
    local_cache_entries: int = Field(default=50_000, ge=0)
    """Entries of the in-process cache in front of the shared one; 0 turns it off."""
    local_cache_bytes: int = Field(default=32 * 1024**2, ge=0)
    """Largest size of the in-process cache."""
    drain_s: float = Field(default=15.0, ge=0, le=600)
    """After SIGTERM and `quiet_s`, how long requests in flight may take to finish."""
    quiet_s: float = Field(default=0.0, ge=0, le=120)
    """After SIGTERM, how long the port stays open while /readyz fails, so that load balancers can notice."""
    trust_proxy: str = ""
    """Comma-separated addresses or networks of proxies whose X-Forwarded-For and -Proto are trusted."""
    max_client_texts: int = Field(default=0, ge=0)
    """How many texts one client (API key or address) may have waiting at once; 0 means no limit."""
    first_client_texts: int = Field(default=32, ge=0)
    """While texts wait, clients with at most this many waiting go before clients with more."""
    rate_limit: str = ""
    """Requests per client and process: 100/second, or several limits: 20/second;500/minute."""
    api_keys: SecretStr = SecretStr("")
    """Comma-separated API keys: name:digest, where the digest is SHA-256 in hex."""
    open: Literal["auto", "true", "false"] = "auto"
    """Whether requests need no key if no key is set; auto means on loopback addresses only."""
    admin_keys: SecretStr = SecretStr("")
    """Keys of operators who may see and change everything under /admin, as in api_keys."""
    admin_read_keys: SecretStr = SecretStr("")
    """Keys of operators who may see everything under /admin, as in api_keys."""
    quotas: str = ""
    """Comma-separated quotas of keys, in texts of a day (UTC): web=100000, phone=5000. Others have none."""
    usage_days: int = Field(default=31, ge=1, le=400)
    """For how many days the usage of each key is kept."""
    allowed_hosts: str = ""
    """Comma-separated host names that requests may use. If empty, a service on a loopback address accepts
    loopback names only, and any other service accepts every name."""
    label_order: LabelOrder = "id"
    """The order of labels for clients that do not ask for one: by label id, or by falling score."""
    page: bool = True
    """Whether to serve the web page at /."""
    compat: str = ",".join(DEFAULTS)
    """Comma-separated dialects of other services that are answered too; empty: none."""
    compat_models: str = ""
    """Comma-separated names that clients may use for the model, besides its own; *: any name."""
    cascades: str = ""
    """Comma-separated names under which a fast model answers the texts it is sure of, and another the rest:
    NAME=FAST:SURE:THRESHOLD."""
    moderation_labels: str = ""
    """The category of each label in /v1/moderations: toxic=harassment, threat=violence. Labels without one do
    not count. If empty, labels that are names of categories count."""
    moderation_threshold: float = Field(default=0.5, ge=0, le=1)
    """The score at which a category is flagged."""
    questions: Path | None = None
    """A TOML file with other names of labels for /v1/decisions."""
    vertex_predict: str = Field(
        default="/vertex/predict",
        validation_alias=AliasChoices("MILLRACE_VERTEX_PREDICT", "AIP_PREDICT_ROUTE", "vertex_predict"),
    )
    """The route of Vertex AI, if that is one of the dialects."""
    vertex_health: str = Field(
        default="/vertex/health",
        validation_alias=AliasChoices("MILLRACE_VERTEX_HEALTH", "AIP_HEALTH_ROUTE", "vertex_health"),
    )
    """The route of Vertex AI's probe."""

    @field_validator("api_keys", "admin_keys", "admin_read_keys")
    @classmethod
    def _check_keys(cls, value: SecretStr) -> SecretStr:
        parse_keys(value.get_secret_value())
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        parse_hosts(value)
        return value

    @field_validator("quotas")
    @classmethod
    def _check_quotas(cls, value: str) -> str:
        parse_quotas(value)
        return value

    @field_validator("compat")
    @classmethod
    def _check_dialects(cls, value: str) -> str:
        parse_dialects(value)
        return value

    @field_validator("cascades")
    @classmethod
    def _check_cascades(cls, value: str) -> str:
        parse_cascades(value)
        return value

    @field_validator("questions")
    @classmethod
    def _check_questions(cls, value: Path | None) -> Path | None:
        if value is not None:
            read_names(value)
        return value

    @field_validator("vertex_predict", "vertex_health")
    @classmethod
    def _check_routes(cls, value: str) -> str:
        return parse_route(value)

    @field_validator("moderation_labels")
    @classmethod
    def _check_categories(cls, value: str) -> str:
        parse_categories(value)
        return value

    @field_validator("trust_proxy")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        try:
            all_addresses = any(ip_network(part, strict=False).prefixlen == 0 for part in _parts(value))
        except ValueError as error:
            raise ValueError("must be addresses or networks: 127.0.0.1, 10.0.0.0/8") from error
        if all_addresses:
            raise ValueError("must not match every address: any client could then forge X-Forwarded-For")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, value: str) -> str:
        try:
            parse_rate(value)
        except ValueError as error:
            raise ValueError("must be a number and a unit: 100/second, 20/second;500/minute") from error
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
                "set MILLRACE_API_KEYS (`millrace key new NAME` creates a key), or MILLRACE_OPEN=true to "
                "allow requests without a key"
            )
        return self

    @model_validator(mode="after")
    def _check_separate(self) -> Self:
        if self.separate_clients and not self.key_names:
            raise ValueError(
                "MILLRACE_SEPARATE_CLIENTS=true distinguishes clients by API key: set MILLRACE_API_KEYS"
            )
        return self

    @property
    def host_names(self) -> Sequence[str]:
        """Allowed host names, in addition to loopback names and IP addresses; "*" allows all names."""
        return parse_hosts(self.allowed_hosts) or (() if is_loopback(self.host) else ("*",))

    @cached_property
    def model_names(self) -> frozenset[str]:
        """Names of the model that clients of dialects may use, besides its own."""
        return frozenset(_parts(self.compat_models))

    @cached_property
    def all_cascades(self) -> Sequence[Cascade]:
        """The cascades, whose members may not be served yet."""
        return parse_cascades(self.cascades)

    @cached_property
    def moderation_categories(self) -> Mapping[str, str]:
        """The category of each label that has one."""
        return parse_categories(self.moderation_labels)

    @cached_property
    def label_names(self) -> Mapping[str, Sequence[str]]:
        """Other names of labels, which questions may use."""
        return {} if self.questions is None else read_names(self.questions)

    @property
    def quota_texts(self) -> Mapping[str, int]:
        """The texts that a key may send on one day, by its name."""
        return parse_quotas(self.quotas)

    @property
    def trusted_proxies(self) -> list[str]:
        """Networks of trusted proxies. The client is the last address in X-Forwarded-For outside of them."""
        return [str(ip_network(part, strict=False)) for part in _parts(self.trust_proxy)]

    @property
    def key_names(self) -> Mapping[str, str]:
        """The accepted API keys as digest -> name. If empty, requests do not need a key."""
        return parse_keys(self.api_keys.get_secret_value())


def _parts(value: str) -> Sequence[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
