"""wrk, the load generator of the hit path: one thread that sends the same request again and again."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = """
wrk.method = "POST"
wrk.body = %s
wrk.headers["Content-Type"] = "application/json"
"""


@dataclass(frozen=True, slots=True)
class Driven:
    """What one run of wrk met."""

    requests: int
    rps: float
    p99_ms: float


class Wrk:
    """Sends the request that the script holds."""

    def __init__(self, script: Path) -> None:
        self._script = script

    def drive(self, port: int, *, seconds: int, connections: int) -> Driven:
        """One run against a port; every answer must be a success."""
        words = ["-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(self._script)]
        command = ["wrk", *words, f"http://127.0.0.1:{port}/predict"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in said, said
        return Driven(
            int(_found(r"(\d+) requests in", said)),
            float(_found(r"Requests/sec:\s+([\d.]+)", said)),
            _ms(_found(r"\n +99%\s+(\S+)", said)),
        )


@contextmanager
def wrk(texts: Sequence[str]) -> Iterator[Wrk]:
    """A wrk that asks /predict for these texts; ends the benchmark where there is none."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: https://github.com/wg/wrk (Debian: apt install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(SCRIPT % json.dumps(json.dumps({"text": texts})))
        yield Wrk(script)


def _found(pattern: str, said: str) -> str:
    match = re.search(pattern, said)
    assert match, said
    return match[1]


def _ms(latency: str) -> float:
    number = latency.rstrip("ums")
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[latency.removeprefix(number)]
