"""The key of a local operator: `millrace up` writes it, and operators' commands read it (decision 0303).

A connection from this machine does not prove who sends a request: every proxy here makes one for others. To
read a file of the user that started the service does.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from api.keys import key_setting, new_key
from api.settings import ApiSettings
from millrace.errors import CommandError
from millrace.local.embedded_redis import default_data_dir

NAME = "operator.key"
# The name of the key, in the audit log and in log lines.
OPERATOR = "local"


class OperatorKey:
    """A new key, in files that only this user can read: in the data directory, and where `find_key` looks.

    `data` is None for a service whose Redis is elsewhere. Each start has a different key.
    """

    def __init__(self, data: Path | None, url: str) -> None:
        self.key = new_key()
        self._files = [data / NAME] if data is not None else []
        try:
            for file in self._files:
                _write(file, self.key)
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.") from error
        with contextlib.suppress(OSError):  # without a home, commands need --admin-key-file
            found = _place(url)
            found.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(found, self.key)
            self._files.append(found)

    def beside(self, settings: ApiSettings) -> dict[str, str]:
        """The variable that admits this key beside the operators' keys in the settings."""
        own = key_setting(OPERATOR, self.key)
        given = [f"{name}:{digest}" for digest, name in settings.admin_keys.get_secret_value().items()]
        return {"MILLRACE_ADMIN_KEYS": ",".join((*given, own))}

    def close(self) -> None:
        """Removes the files, unless another service has written its key there."""
        for file in self._files:
            with contextlib.suppress(OSError):
                if file.read_text() == self.key:
                    file.unlink()


def find_key(url: str) -> str:
    """The key of the service that this user has started at `url`; "" if there is none."""
    try:
        file = _place(url)
        about = file.lstat()
        private = about.st_uid == os.geteuid() and not about.st_mode & 0o077
        return file.read_text() if private else ""
    except (OSError, ValueError):
        return ""


def _place(url: str) -> Path:
    """The file of a service by its address: a key is only sent to where it is valid. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return default_data_dir() / "operators" / f"{host}-{parts.port}"


def _write(file: Path, text: str) -> None:
    """Replaces a file by one that only this user can read, whatever was there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as new:
            new.write(text)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
