"""What requests cost: processor time, also of processes that read tables, and the API's most memory."""

from __future__ import annotations

import re
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from socket import create_connection

import httpx
import psutil

from tests.cost.stored import Stored, ask
from tests.service import Service, wait_until

KIB, MIB = 1024, 1024**2
KEY = "k" * 43
HEADERS = {"authorization": f"Bearer {KEY}"}
# A process that has nothing to do uses less than this of a fifth of a second, and runs at few of the looks.
LOOK_S, IDLE_S, LOOKS = 0.2, 0.03, 10
# A request is being worked on once it has used so much.
BEGUN_S = 0.05


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a cost test. `content` is the size of a compressed body's content.

    `chunked`: the body is in the chunked coding already. `tables`: how many processes read a table for it.
    """

    method: str
    path: str
    body: bytes = b""
    content_type: str = "application/json"
    content: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    chunked: bool = False
    tables: int = 0

    @property
    def size(self) -> int:
        """The bytes that the client chooses: path, query, headers and body."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.path) + headers + max(len(self.body), self.content)

    def head(self) -> list[tuple[str, str]]:
        """All headers but those that a client adds."""
        sent = {name.lower() for name, _ in self.headers}
        kind = [("content-type", self.content_type)] if self.content_type else []
        kind += [("transfer-encoding", "chunked")] if self.chunked else []
        return [
            *((name, value) for name, value in (*HEADERS.items(), *kind) if name not in sent),
            *self.headers,
        ]


@dataclass(frozen=True, slots=True)
class Cost:
    """Processor time in seconds, memory in bytes, and the answer: without one, status 0 and the error."""

    cpu_s: float
    memory: int
    status: int
    answer: bytes


def clock_s(pid: int) -> float:
    """The processor time of a process."""
    return time.clock_gettime((~pid << 3) | 2)


class Meter:
    """Sends requests with the key of an operator to a filled service, and measures its API process."""

    def __init__(self, service: Service, stored: Stored) -> None:
        self.service = service
        self.stored = stored
        self._http = httpx.Client(base_url=service.base_url, timeout=300, trust_env=False)
        self._background = self._background_share()

    def _background_share(self) -> float:
        """The processor time of a second in which no request comes: sweeps, statistics, usage."""
        began_s, began = self.cpu_s(), time.monotonic()
        time.sleep(3)
        return (self.cpu_s() - began_s) / (time.monotonic() - began)

    def close(self) -> None:
        self._http.close()

    def remember(self) -> None:
        """Lets the process remember the requests that have an id in `stored`: others displace them."""
        ask(self._http, HEADERS)

    def cpu_s(self) -> float:
        """The processor time of the process, and of those that have read tables for it or still do.

        What other processes do does not count.
        """
        api = psutil.Process(self.service.api.pid)
        ended = api.cpu_times()
        used_s = clock_s(api.pid) + ended.children_user + ended.children_system
        for child in api.children():
            with suppress(OSError):  # it has ended since
                used_s += clock_s(child.pid)
        return used_s

    def memory(self, field: str = "VmHWM") -> int:
        """The most memory since `forget_peak`, or with "VmRSS" the present one."""
        status = Path(f"/proc/{self.service.api.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) * KIB

    def forget_peak(self) -> None:
        Path(f"/proc/{self.service.api.pid}/clear_refs").write_text("5")

    def computed(self) -> int:
        """The texts that have been computed for requests of the process."""
        said = self._http.get("/metrics").raise_for_status().text
        found = re.search(r'^millrace_entries_total{outcome="computed"} (\d+)', said, re.MULTILINE)
        assert found is not None, "it begins with 0"
        return int(found[1])

    def measure(self, request: Request) -> Cost:
        """The cost of one request, from its first byte to the last one of its answer.

        What the process does in the background meanwhile is left out: some requests wait for other processes.
        """
        self.forget_peak()
        before, began_s, began = self.memory("VmRSS"), self.cpu_s(), time.monotonic()
        answer: httpx.Response | None = None
        status, content = 0, b""
        try:
            answer = self.send(request, tidy=False)
            status, content = answer.status_code, answer.content
        except httpx.TransportError as error:
            content = str(error).encode()
        used_s = self.cpu_s() - began_s - self._background * (time.monotonic() - began)
        cost = Cost(max(used_s, 0.0), self.memory() - before, status, content)
        if answer is not None:
            self._tidy(answer)
        return cost

    def send(self, request: Request, tidy: bool = True) -> httpx.Response:
        """The answer, of a stream of events only the first ones; `tidy` deletes what it has stored."""
        if request.chunked:
            answer = self._send_chunked(request)
        else:
            content = None if request.method == "GET" and not request.body else request.body
            with self._http.stream(
                request.method, request.path, headers=request.head(), content=content
            ) as answer:
                if "event-stream" in answer.headers.get("content-type", ""):
                    answer._content = next(answer.iter_raw())
                else:
                    answer.read()
        if tidy:
            self._tidy(answer)
        return answer

    def _send_chunked(self, request: Request) -> httpx.Response:
        """The body as it is, in as few segments as possible: httpx would make one chunk of it."""
        sent = httpx.Request(request.method, f"{self.service.base_url}{request.path}")
        with closing(HTTPConnection("127.0.0.1", self.service.port, timeout=300)) as http:
            try:
                http.request(request.method, request.path, request.body, dict(request.head()))
                answer = http.getresponse()
                headers = [(name, value) for name, value in answer.getheaders() if name != "content-encoding"]
                return httpx.Response(answer.status, headers=headers, content=answer.read(), request=sent)
            except (OSError, HTTPException) as error:
                raise httpx.TransportError(str(error)) from error

    def status(self, request: Request) -> int:
        """The status of the answer; 0 without one."""
        try:
            return self.send(request).status_code
        except httpx.TransportError:
            return 0

    def leave(self, request: Request, share: float = 1, patience_s: float = LOOK_S) -> float:
        """The processor time after a client has left that had sent this share of its body.

        It leaves as soon as the work for it has begun, and after `patience_s` at the latest.
        """
        head = f"{request.method} {request.path} HTTP/1.1\r\nhost: localhost\r\n"
        length = [] if request.chunked else [("content-length", str(len(request.body)))]
        fields = [*request.head(), *length]
        head += "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
        began_s, deadline = self.cpu_s(), time.monotonic() + patience_s
        with closing(create_connection(("127.0.0.1", self.service.port))) as client:
            with suppress(ConnectionError):  # it may be refused before it has been read
                client.sendall(head.encode("latin-1") + request.body[: int(share * len(request.body))])
            while self.cpu_s() - began_s < BEGUN_S and time.monotonic() < deadline:
                time.sleep(0.001)
        left_s = self.cpu_s()
        wait_until(self._idle, "the API to be idle", 120)
        return self.cpu_s() - left_s - IDLE_S

    def _idle(self) -> bool:
        """Whether it neither works nor waits for a processor, of which a busy machine gives it little."""
        began_s, runs = self.cpu_s(), 0
        for _ in range(LOOKS):
            time.sleep(LOOK_S / LOOKS)
            runs += self._runs()
        return self.cpu_s() - began_s < IDLE_S and runs < LOOKS / 2

    def _runs(self) -> bool:
        """Whether a thread of the process, or of one that reads a table for it, could run now."""
        api = psutil.Process(self.service.api.pid)
        for pid in (api.pid, *(child.pid for child in api.children())):
            for stat in Path("/proc", str(pid), "task").glob("*/stat"):
                with suppress(OSError):  # it has ended since
                    if stat.read_text().rpartition(")")[2].split()[0] == "R":
                        return True
        return False

    def _tidy(self, answer: httpx.Response) -> None:
        """Deletes what the request has stored, because new jobs do not run, and would reach their limits."""
        if answer.request.method != "POST" or answer.status_code not in (200, 202):
            return
        if (made := answer.headers.get("location", "")).startswith("/jobs/"):
            for _ in range(2):  # cancels, and deletes
                self._http.delete(made, headers=HEADERS)
        elif answer.url.path == "/v1/files":
            self._http.delete(f"/v1/files/{answer.json()['id']}", headers=HEADERS)
