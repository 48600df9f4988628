"""What requests cost the API process: its processor time, and the most memory it had meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.service import Service

KIB, MIB = 1024, 1024**2


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a cost test. `content` is the size of a compressed body's content."""

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    content: int = 0

    @property
    def size(self) -> int:
        """The bytes that the client chooses: path, query and body."""
        return len(self.path) + max(len(self.body), self.content)


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time in seconds, memory in bytes, and the answer."""

    cpu_s: float
    memory: int
    status: int
    answer: bytes


class Meter:
    """Sends requests with the key of an operator, and measures the process `pid` that answers them."""

    def __init__(self, service: Service, key: str) -> None:
        self.pid = service.api.pid
        self.port = service.port
        self._http = service.http
        self._headers = {"authorization": f"Bearer {key}"}

    def cpu_s(self) -> float:
        """The processor time of the process; what other processes do does not count."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory(self, field: str = "VmHWM") -> int:
        """The most memory since `forget_peak`, or with "VmRSS" the present one."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) * KIB

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def measure(self, request: Request, send: Callable[[Request], httpx.Response] | None = None) -> Cost:
        """The cost of one request, from its first byte to the last one of its answer."""
        self.forget_peak()
        before, began_s = self.memory("VmRSS"), self.cpu_s()
        answer = (send or self.send)(request)
        return Cost(self.cpu_s() - began_s, self.memory() - before, answer.status_code, answer.content)

    def send(self, request: Request) -> httpx.Response:
        headers = {
            **self._headers,
            **({"content-type": request.content_type} if request.content_type else {}),
        }
        given: dict[str, Any] = {"content": request.body} if request.method != "GET" else {}
        answer = self._http.request(request.method, request.path, headers=headers, timeout=300, **given)
        if request.path.startswith("/jobs?") or request.path == "/jobs":
            self._tidy(answer)
        return answer

    def _tidy(self, answer: httpx.Response) -> None:
        """Jobs do not run, and would reach their limits."""
        if answer.status_code in (200, 202) and (place := answer.headers.get("location")):
            for _ in range(2):  # cancels, and deletes
                self._http.delete(place, headers=self._headers)
