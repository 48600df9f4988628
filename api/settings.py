"""Settings of the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, Secret, model_validator

from api.dialect_names import DEFAULTS, parse_categories, parse_dialects, parse_route, read_names
from api.keys import parse_keys, parse_quotas
from api.label_order import LabelOrder
from api.origins import is_loopback, parse_hosts, parse_origins
from api.rate_limit import Rate, parse_rate
from batcher.cascades import Cascade, parse_cascades
from batcher.models import is_below_model
from batcher.settings import JobSettings


def _names(value: str) -> frozenset[str]:
    return frozenset(part.strip() for part in value.split(",") if part.strip())


def _model_names(value: str) -> frozenset[str]:
    names = _names(value)
    if wrong := next(filter(is_below_model, names), ""):
        raise ValueError(f"{wrong} cannot be the name of a model: its path is that of another route")
    return names


def _proxies(value: str) -> list[str]:
    try:
        networks = [ip_network(part, strict=False) for part in sorted(_names(value))]
    except ValueError as error:
        raise ValueError("must be addresses or networks: 127.0.0.1, 10.0.0.0/8") from error
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError("must not match every address: any client could then forge X-Forwarded-For")
    return [str(network) for network in networks]


# Types of settings that are written as text. Keys are digest -> name, quotas name -> texts of a day (UTC).
KeyNames = Annotated[Secret[Mapping[str, str]], BeforeValidator(parse_keys)]
Quotas = Annotated[Mapping[str, int], BeforeValidator(parse_quotas)]
Rates = Annotated[Sequence[Rate], BeforeValidator(parse_rate)]
Hosts = Annotated[Sequence[str], BeforeValidator(parse_hosts)]
Origins = Annotated[Sequence[str], BeforeValidator(parse_origins)]
Proxies = Annotated[Sequence[str], BeforeValidator(_proxies)]
ModelNames = Annotated[frozenset[str], BeforeValidator(_model_names)]
Dialects = Annotated[Sequence[str], BeforeValidator(parse_dialects)]
Cascades = Annotated[Sequence[Cascade], BeforeValidator(parse_cascades)]
Categories = Annotated[Mapping[str, str], BeforeValidator(parse_categories)]
LabelNames = Annotated[Mapping[str, Sequence[str]], BeforeValidator(read_names)]
Route = Annotated[str, AfterValidator(parse_route)]


class ApiSettings(JobSettings):
    """Settings of the API: where it listens, what it accepts, what it caches."""

    may_be_empty = frozenset({"compat"})

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
    trust_proxy: Proxies = Field(default="", validate_default=True)
    """Comma-separated addresses or networks of proxies whose X-Forwarded-For and -Proto are trusted."""
    max_client_texts: int = Field(default=0, ge=0)
    """How many texts one client (API key or address) may have waiting at once; 0 means no limit."""
    first_client_texts: int = Field(default=32, ge=0)
    """While texts wait, clients with at most this many waiting go before clients with more."""
    rate_limit: Rates = Field(default="", validate_default=True)
    """Requests per client and process: 100/second, or several limits: 20/second;500/minute."""
    api_keys: KeyNames = Field(default="", validate_default=True)
    """Comma-separated API keys: name:digest, where the digest is SHA-256 in hex."""
    open: Literal["auto", "true", "false"] = "auto"
    """Whether requests need no key if no key is set; auto means on loopback addresses only."""
    admin_keys: KeyNames = Field(default="", validate_default=True)
    """Keys of operators who may see and change everything under /admin, as in api_keys."""
    admin_read_keys: KeyNames = Field(default="", validate_default=True)
    """Keys of operators who may see everything under /admin, as in api_keys."""
    quotas: Quotas = Field(default="", validate_default=True)
    """Comma-separated quotas of keys, in texts of a day (UTC): web=100000, phone=5000. Others have none."""
    allowed_hosts: Hosts = Field(default="", validate_default=True)
    """Comma-separated host names that requests may use. If empty, a service on a loopback address accepts
    loopback names only, and any other service accepts every name."""
    allowed_origins: Origins = Field(default="", validate_default=True)
    """Comma-separated origins whose pages may send requests from browsers and read the answers:
    https://app.example; * allows every one."""
    label_order: LabelOrder = "id"
    """The order of labels for clients that do not ask for one: by label id, or by falling score."""
    page: bool = True
    """Whether to serve the web page at /."""
    compat: Dialects = Field(default=",".join(DEFAULTS), validate_default=True)
    """Comma-separated dialects of other services that are answered too; empty: none."""
    compat_models: ModelNames = Field(default="", validate_default=True)
    """Comma-separated names that clients may use for the model, besides its own; *: any name."""
    cascades: Cascades = Field(default="", validate_default=True)
    """Comma-separated names under which a fast model answers the texts it is sure of, and another the rest:
    NAME=FAST:SURE:THRESHOLD."""
    moderation_labels: Categories = Field(default="", validate_default=True)
    """The category of each label in /v1/moderations: toxic=harassment, threat=violence. Labels without one do
    not count. If empty, labels that are names of categories count."""
    moderation_threshold: float = Field(default=0.5, ge=0, le=1)
    """The score at which a category is flagged."""
    questions: LabelNames = Field(default="", validate_default=True)
    """A TOML file with other names of labels for /v1/decisions."""
    vertex_predict: Route = Field(
        default="/vertex/predict",
        validation_alias=AliasChoices("MILLRACE_VERTEX_PREDICT", "AIP_PREDICT_ROUTE", "vertex_predict"),
    )
    """The route of Vertex AI, if that is one of the dialects."""
    vertex_health: Route = Field(
        default="/vertex/health",
        validation_alias=AliasChoices("MILLRACE_VERTEX_HEALTH", "AIP_HEALTH_ROUTE", "vertex_health"),
    )
    """The route of Vertex AI's probe."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.default_budget_s > self.max_budget_s:
            raise ValueError(
                f"MILLRACE_DEFAULT_BUDGET_S={self.default_budget_s:g} is above "
                f"MILLRACE_MAX_BUDGET_S={self.max_budget_s:g}"
            )
        closed = self.open == "false" or (self.open == "auto" and not is_loopback(self.host))
        if closed and not self.api_keys.get_secret_value():
            raise ValueError(
                f"no API key is set, and with MILLRACE_OPEN={self.open} a service on {self.host} needs one: "
                "set MILLRACE_API_KEYS (`millrace key new NAME` creates a key), or MILLRACE_OPEN=true to "
                "allow requests without a key"
            )
        if self.separate_clients and not self.api_keys.get_secret_value():
            raise ValueError(
                "MILLRACE_SEPARATE_CLIENTS=true distinguishes clients by API key: set MILLRACE_API_KEYS"
            )
        return self

    @property
    def host_names(self) -> Sequence[str]:
        """Allowed host names, in addition to loopback names and IP addresses; "*" allows all names."""
        return self.allowed_hosts or (() if is_loopback(self.host) else ("*",))
