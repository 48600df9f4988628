"""Settings, and checks made before a process starts: unknown variables, the port. Errors are one sentence."""

from __future__ import annotations

import difflib
import os
import re
import socket
from typing import TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from api.settings import ApiSettings
from batcher.listening import bind
from batcher.settings import IS_EMPTY, JobSettings, QueueSettings, WorkerSettings
from millrace.errors import CommandError

# Which process reads the settings that each class declares in addition to its base class.
SECTIONS: dict[str, type[QueueSettings]] = {
    "every process": QueueSettings,
    "worker": WorkerSettings,
    "jobs": JobSettings,
    "api": ApiSettings,
}
# Kubernetes sets such variables for a service whose name begins with "millrace".
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP)(_\w+)?$|_PORT$")

# The address of the service that commands ask; not a setting of a process.
ADDRESS = "MILLRACE_URL"
# Advice for variables that are not settings.
_INSTEAD = {
    "MILLRACE_WORKERS": "the number of workers is an option: --workers",
}
UNITS = {"s": "seconds", "ms": "milliseconds", "bytes": "bytes"}

Settings = TypeVar("Settings", bound=QueueSettings)


def load_settings(kind: type[Settings], **flags: object) -> Settings:
    """Reads the settings of one process from the environment and flags (None: not given).

    Raises CommandError if they are invalid.
    """
    check_names()
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return kind(**given)  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        raise CommandError(_sentence(kind, error.errors()[0], given)) from None


def variables(name: str, field: FieldInfo) -> tuple[str, ...]:
    """The environment variables for a field; the first one that is set takes effect."""
    if isinstance(field.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in field.validation_alias.choices if str(choice).isupper())
    return (f"MILLRACE_{name.upper()}",)


def own_fields(kind: type[QueueSettings]) -> dict[str, FieldInfo]:
    """The fields that a settings class declares itself."""
    return {name: field for name, field in kind.model_fields.items() if name in kind.__annotations__}


def known_variables() -> set[str]:
    """Every environment variable that a Millrace process or command reads."""
    return {ADDRESS} | {
        variable
        for kind in SECTIONS.values()
        for name, field in kind.model_fields.items()
        for variable in variables(name, field)
    }


def check_port(host: str, port: int) -> None:
    """Raises CommandError if a process could not listen there now."""
    if port == 0:
        return
    try:
        bind(host, port).close()
    except socket.gaierror:
        raise CommandError(f"--host {host} (MILLRACE_HOST) is not an address of this machine.") from None
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host} port {port}: {(error.strerror or str(error)).lower()}; "
            "choose another with --port or MILLRACE_PORT."
        ) from None


def base_url(host: str, port: int) -> str:
    """The URL by which this machine reaches a server that listens there."""
    host = reachable(host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def reachable(host: str) -> str:
    """The address of this machine for a server that listens on `host`, which may stand for all addresses."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # read, not bound


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which no process is listening now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((host, 0))
        port: int = listener.getsockname()[1]
        return port


def unit(name: str) -> str:
    """The unit that a setting's name ends with; "" if it has none."""
    return UNITS.get(name.lower().rpartition("_")[2], "")


def check_names() -> None:
    """Raises CommandError for the first MILLRACE_ variable that is not a setting."""
    known = known_variables()
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith("MILLRACE_"):
            continue
        if os.environ[variable].startswith(("tcp://", "udp://")) or (
            name not in known and _SERVICE_LINK.search(name)
        ):
            raise CommandError(
                f"{variable} comes from a Kubernetes service link: set enableServiceLinks: false in the pod."
            )
        if name not in known:
            names = [choice.removeprefix("MILLRACE_") for choice in known]
            close = difflib.get_close_matches(name.removeprefix("MILLRACE_"), names, n=1)
            if name in _INSTEAD:
                raise CommandError(f"unknown setting {variable}: {_INSTEAD[name]}.")
            hint = (
                f": did you mean MILLRACE_{close[0]}?" if close else "; `millrace config` lists all settings."
            )
            raise CommandError(f"unknown setting {variable}{hint}")


_NUMBERS = {"int_parsing": "whole number", "int_from_float": "whole number", "float_parsing": "number"}


def _shown(value: str) -> str:
    """A value in a sentence: on one line, and not too long."""
    return value[:100] if value.isprintable() else repr(value[:100])


def _sentence(kind: type[QueueSettings], error: ErrorDetails, given: dict[str, object]) -> str:
    where = str(error["loc"][0]) if error["loc"] else ""
    problem = re.sub(r"^(Input|String)\b", "", re.sub(r"\s+", " ", error["msg"]))
    if error["type"] in _NUMBERS:
        of_unit = f" of {unit(where)}" if unit(where) else ""
        problem = f" must be a {_NUMBERS[error['type']]}{of_unit}"
    problem = re.sub(r"^Value error,", ":", problem)
    if not where:
        return f"the settings are inconsistent{problem}."
    name = _field(kind, where)
    if problem.endswith(IS_EMPTY):
        return f"{_said(kind, name, given)} {IS_EMPTY}."
    secret = "Secret" in str(kind.model_fields[name].annotation)
    value = "" if secret else f"={_shown(str(error['input']))}"
    return f"{_said(kind, name, given)}{value}{problem}."


def _field(kind: type[QueueSettings], where: str) -> str:
    fields = kind.model_fields.items()
    return next(name for name, field in fields if where.upper() in (name.upper(), *variables(name, field)))


def _said(kind: type[QueueSettings], name: str, given: dict[str, object]) -> str:
    if name in given:
        return f"--{name.replace('_', '-')}"
    choices = variables(name, kind.model_fields[name])
    present = {variable.upper() for variable in os.environ}
    return next((choice for choice in choices if choice in present), choices[0])
