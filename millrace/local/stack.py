"""The service on one machine: its processes, the order in which they start and stop, and its readiness."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from api.settings import ApiSettings
from batcher.settings import WorkerSettings
from millrace.local.embedded_redis import EmbeddedRedis
from millrace.local.operator_key import OperatorKey
from millrace.local.supervisor import Child, Group, Plan, say, stop_in_order
from millrace.preparing import Changes
from millrace.settings_loader import base_url, reachable

_PROBE_S = 0.1
# How long to wait before printing why the service is not ready.
_QUIET_S = 2.0
# How often to ask what workers are doing.
_ASK_S = 1.0
# How long to wait for a link to the console.
_LINK_S = 5.0
# Programs that forward a signal often send it to both the process and its group; these count as one signal.
_SAME_SIGNAL_S = 0.5
# Time that a process has to exit after it has drained.
_EXIT_S = 10.0
_PREPARING = "the worker is preparing its model, which takes longest the first time"
_EXAMPLE = '{"text": ["I hate you.", "I love you."]}'


class LocalStack:
    """Runs `servers` (none if a URL is set), then the API, the workers and the jobs worker."""

    def __init__(
        self,
        api: ApiSettings,
        worker: WorkerSettings,
        workers: int,
        servers: Sequence[EmbeddedRedis],
        operator: OperatorKey,
    ) -> None:
        self._address = (reachable(api.host), api.port)
        self._base_url = base_url(api.host, api.port)
        self._redis = servers
        self._operator = operator
        self._group = Group()
        self._service_started = asyncio.Event()
        self._stop_requested = asyncio.Event()
        self._stop_requested_at = 0.0
        self._hurry = asyncio.Event()
        url = " ".join(redis.url for redis in servers) or api.redis_url.get_secret_value()
        shared = {"MILLRACE_REDIS_URL": url, "MILLRACE_HOST": api.host}
        listening = {"MILLRACE_PORT": str(api.port), **operator.beside(api)}
        working = models_and_threads(worker, workers)
        names = ["worker"] if workers == 1 else [f"worker {number}" for number in range(1, workers + 1)]

        self._servers = [self._child(_redis_plan(redis, number)) for number, redis in enumerate(servers)]
        self._apis = [self._child(_plan("api", "api", {**shared, **listening}, api.quiet_s + api.drain_s))]
        self._workers = [
            self._child(_plan(name, "worker", {**shared, **working, **_own(worker, number)}, worker.drain_s))
            for number, name in enumerate(names)
        ]
        self._jobs = [self._child(_plan("jobs", "jobs", shared, worker.drain_s))]
        self._summary = [
            *(_described(servers) or ["  redis    as configured"]),
            f"  api      {self._base_url}",
            f"  workers  {workers}, model {working['MILLRACE_MODEL']}",
            "  jobs     1",
        ]

    async def run(self) -> int:
        """Starts all processes, keeps them running, and stops them on a signal. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(name, self._on_signal)
        await self._group.open()
        working = asyncio.ensure_future(self._work())
        stopping = asyncio.ensure_future(self._stop_requested.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
            problem = (await asyncio.gather(working, return_exceptions=True))[0]
            say("stopping")
            await stop_in_order([self._apis, self._jobs, self._workers, self._servers], self._hurry)
            await self._group.close()
        if isinstance(problem, BaseExceptionGroup):
            raise problem.exceptions[0]
        say("stopped")
        return 0

    async def _work(self) -> None:
        started = time.monotonic()
        say("\n".join(["starting", *self._summary]))
        async with asyncio.TaskGroup() as keeping:
            keeping.create_task(self._group.watch())
            for child, redis in zip(self._servers, self._redis, strict=True):
                await child.start()
                keeping.create_task(child.keep())
                await _answers(redis)
            for child in (*self._apis, *self._workers, *self._jobs):
                await child.start()
                keeping.create_task(child.keep())
            await self._ready()
            self._service_started.set()
            say(f"ready after {time.monotonic() - started:.1f} s; Ctrl-C stops everything. ", end="")
            say("\n".join(["In another terminal:\n", *self._commands()]))
            say(f"\nThe page:    {self._base_url}\nThe console: {await asyncio.to_thread(self._console)}\n")

    def _commands(self) -> Iterator[str]:
        """Commands that work as pasted, in the directory in which this one was typed."""
        url = f" --url {self._base_url}"
        yield f"  curl -X POST {self._base_url}/predict -d '{_EXAMPLE}'"
        yield f"  {typed('millrace')} classify FILE.csv -o labelled.csv{url}"
        yield f"  {typed('millrace')} top{url}"
        if self._redis:
            yield f"  {typed('rq')} info --url {self._redis[0].url}"

    def _console(self) -> str:
        """How to open the console: a link that works once or, where the output may be a log, its command."""
        if sys.stdout.isatty():
            with contextlib.suppress(OSError, ValueError, KeyError):
                link = json.loads(self._ask("POST", "/admin/links")[1])["path"]
                return f"{self._base_url}{link} (works once)"
        return f"{typed('millrace')} console --url {self._base_url} prints a link that works once"

    async def _ready(self) -> None:
        asked_at = 0.0
        began = time.monotonic()
        changes = Changes()
        while (reason := await asyncio.to_thread(self._why_not_ready)) is not None:
            waited_s = time.monotonic() - began
            if reason == _PREPARING and waited_s > _QUIET_S and waited_s - asked_at > _ASK_S:
                asked_at = waited_s
                for line in changes.preparing(await asyncio.to_thread(self._preparing)):
                    say(line)
                    changes.note("reason", reason)
            if reason and waited_s > _QUIET_S and changes.due("reason", reason):
                say(f"waiting for {waited_s:.0f} s: {reason}")
            await asyncio.sleep(_PROBE_S)

    def _why_not_ready(self) -> str | None:
        """None if ready, else the reason that /readyz gives; "" while the API does not listen yet."""
        try:
            status, body = self._ask("GET", "/readyz", timeout_s=2.0)
        except (OSError, http.client.HTTPException):
            return ""
        return None if status == 200 else _reason(body)

    def _preparing(self) -> list[dict[str, Any]]:
        """What workers that load a model are doing; empty if the API does not say."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            found: list[dict[str, Any]] = json.loads(self._ask("GET", "/admin/models")[1])["preparing"]
            return found
        return []

    def _ask(self, method: str, path: str, timeout_s: float = _LINK_S) -> tuple[int, bytes]:
        """The status and the body that the API answers to an operator. Raises OSError and HTTPException."""
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=timeout_s)) as connection:
            connection.request(method, path, headers={"Authorization": f"Bearer {self._operator.key}"})
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _on_signal(self) -> None:
        now = time.monotonic()
        if not self._stop_requested.is_set():
            self._stop_requested_at = now
            self._stop_requested.set()
        elif now - self._stop_requested_at > _SAME_SIGNAL_S:
            self._hurry.set()

    def _child(self, plan: Plan) -> Child:
        return Child(plan, self._group, self._service_started)


def typed(command: str) -> str:
    """How to type a command that is installed beside this one: by its name if PATH finds it there."""
    beside = Path(sys.argv[0]).with_name(command)
    found = shutil.which(command)
    if not beside.is_file() or (found and Path(found).resolve() == beside.resolve()):
        return command
    return shlex.quote(str(beside))


async def _answers(redis: EmbeddedRedis) -> None:
    """Returns when the server answers."""
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(str(redis.socket))
            writer.write(b"PING\r\n")
            answer = await reader.readline()
            writer.close()
            if answer == b"+PONG\r\n":
                return
        await asyncio.sleep(_PROBE_S / 10)


def _described(servers: Sequence[EmbeddedRedis]) -> list[str]:
    lines = []
    for redis in servers:
        where = f"data in {redis.data.path}" if redis.on_disk else "nothing on disk"
        lines += [f"  redis    {redis.url}", f"           {redis.binary}, {where}"]
    return lines


def _plan(name: str, command: str, environment: dict[str, str], drain_s: float) -> Plan:
    # Keeps a folder named `api` in the current directory from being imported instead of this project's, here
    # and in processes that this one starts.
    environment = {**environment, "PYTHONSAFEPATH": "1"}
    return Plan(name, [sys.executable, "-P", "-m", "millrace", command], drain_s + _EXIT_S, environment)


def _redis_plan(redis: EmbeddedRedis, number: int) -> Plan:
    return Plan(
        f"redis {number}" if number else "redis",
        redis.command(),
        _EXIT_S,
        pass_fds=(redis.data.lock_fd,),
        umask=0o077,
        why_it_ended=redis.why_it_ended,
    )


def _own(worker: WorkerSettings, number: int) -> dict[str, str]:
    """Gives each worker its own card, and its own probe port, counted up from the configured one."""
    port = worker.worker_port + number if worker.worker_port else 0
    return {"MILLRACE_WORKER_PORT": str(port), **_card(number)}


def _card(number: int, devices: Path = Path("/dev")) -> dict[str, str]:
    """The NVIDIA card of a worker, if there are several: they are dealt out to the workers in turn."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(list(devices.glob("nvidia[0-9]*")))
    cards = [str(card) for card in range(count)] if listed is None else listed.split(",")
    return {"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} if len(cards) > 1 else {}


def models_and_threads(worker: WorkerSettings, workers: int) -> dict[str, str]:
    """Models and threads of each worker: several share the cores, a single one chooses its own number."""
    threads = worker.threads
    if threads == 0 and workers > 1:
        from model_store.hardware import cores  # which the image of the API lacks

        threads = max(1, cores() // workers)
    return {"MILLRACE_MODEL": ",".join(map(str, worker.model)), "MILLRACE_THREADS": str(threads)}


def _reason(body: bytes) -> str:
    try:
        problem = json.loads(body)
        if problem["code"] == "no_worker":
            return _PREPARING
        return str(problem["detail"])
    except (ValueError, KeyError, AttributeError):
        return "the API is not ready yet"
