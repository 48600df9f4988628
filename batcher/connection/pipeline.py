"""One connection to Redis, for asyncio: commands leave together, and replies come back in their order.

redis-py connects, authenticates and defines the errors. Its pools, pipelines and streams are not used,
because their overhead per command is larger than the time Redis takes (decision 0008).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import hiredis
import redis.asyncio

from batcher.connection.outage import REDIS_ERRORS, lost_to

Reply = TypeVar("Reply", covariant=True)
Returned = TypeVar("Returned")

# While replies to this many bytes of commands are awaited, other commands wait, so that a round trip does not
# take longer the more requests there are. It is far below what keeps Redis busy for a second.
MAX_SENT_BYTES = 2 << 20
# What a silent connection gets in addition: after this process was suspended, timers run before it reads.
READ_S = 0.05
_NOTHING = object()


class ScriptCall(Protocol[Reply]):
    """One call of a script: the words to send, and how to read the reply."""

    @property
    def script(self) -> str: ...
    def words(self, prefix: str, known: bool) -> tuple[Any, ...]: ...
    def read(self, reply: Any) -> Reply: ...


class PendingCommand:
    """A command and the future of its reply. `tries`: over how many connections it may be sent."""

    __slots__ = ("by_source", "command", "future", "size", "tries", "words")

    def __init__(self, words: Sequence[Any], command: ScriptCall[Any] | None, tries: int) -> None:
        self.words = words
        self.command = command
        self.tries = tries
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.by_source = False
        self.size = 0

    def answer(self, reply: Any) -> None:
        """Passes the reply on, as its command reads it, unless it is no longer awaited."""
        if self.future.done():
            return
        try:
            self.future.set_result(reply if self.command is None else self.command.read(reply))
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Pipeline(asyncio.Protocol):
    """Sends commands over a connection that `client` configures, and connects again once it is lost.

    Cancelling a future drops the reply, not the command. Redis must answer within the client's timeout after
    its last reply. After a lost connection, up to `retries` times, commands without a reply are sent again in
    their order, so they must be idempotent. `writes` counts round trips: the commands of one tick share one.
    """

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "", *, retries: int = 0) -> None:
        self.writes = 0
        self._client = client
        self._prefix = prefix
        self._tries = retries + 1
        self._waiting: deque[PendingCommand] = deque()
        self._sent: deque[PendingCommand] = deque()
        self._sent_bytes = 0
        self._scheduled = False
        self._connecting: asyncio.Task[None] | None = None
        self._connection: Any = None
        self._transport: Any = None
        self._reader: Any = None
        # Scripts that this connection has sent by their source, so that their digests suffice.
        self._known: set[str] = set()
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    def execute(self, *words: Any) -> asyncio.Future[Any]:
        """Sends one command, such as ("GET", key). An error reply is raised."""
        return self._add(PendingCommand(words, None, self._tries))

    def run(self, command: ScriptCall[Returned]) -> asyncio.Future[Returned]:
        """Runs a script and reads its reply. An error reply is raised."""
        return self._add(PendingCommand((), command, self._tries))

    async def close(self) -> None:
        """Waits for the replies that are still awaited, then closes the connection and the client.

        Commands that come later fail.
        """
        while awaited := [one.future for one in (*self._sent, *self._waiting) if not one.future.done()]:
            await asyncio.wait(awaited)
        while self._connecting is not None and not self._connecting.done():
            await asyncio.wait([self._connecting])  # may end with another attempt
        self._ended = True
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)  # its end comes here as `connection_lost`
        await self._client.aclose()

    def _add(self, pending: PendingCommand) -> asyncio.Future[Any]:
        if self._ended:  # a connection would outlive its loop
            pending.fail(_closed("by this process"))
        else:
            self._waiting.append(pending)
            self._schedule()
        return pending.future

    def _schedule(self) -> None:
        """Sends what waits on the next tick, with everything that is added until then."""
        if not self._waiting or self._scheduled:
            return
        self._scheduled = True
        loop = asyncio.get_running_loop()
        if self._transport is None:
            self._connecting = loop.create_task(self._connect())
        else:
            loop.call_soon(self._send)

    async def _connect(self) -> None:
        try:
            old = self._connection
            self._connection = None
            if old is not None:
                await old.disconnect(nowait=True)
            self._connection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            await self._connection.connect()
            self._take_over()
        except Exception as error:
            self._scheduled = False
            self._sent, self._waiting = self._waiting, deque()  # as if all had been sent
            # uvloop raises RuntimeError if the connection is closed while redis-py sets it up.
            self._lost(error if isinstance(error, REDIS_ERRORS) else lost_to(error))
        else:
            self._send()

    def _take_over(self) -> None:
        """From now on, the data of the new connection arrives here instead of in redis-py's stream."""
        self._known.clear()
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=self._connection._parser.parse_error,
            notEnoughData=_NOTHING,
        )
        self._transport = self._connection._writer.transport
        self._transport.set_protocol(self)

    def _send(self) -> None:
        self._scheduled = False
        if self._transport is None or self._transport.is_closing():
            self._lost(_closed("by the server"))
            return
        loop = asyncio.get_running_loop()
        pieces = []
        if not self._sent:
            self._heard_at = loop.time()
        while self._waiting and self._sent_bytes < MAX_SENT_BYTES:
            pending = self._waiting.popleft()
            try:
                pieces.append(packed := self._pack(pending))
            except Exception as error:
                pending.fail(error)
                continue
            pending.size = len(packed)
            self._sent.append(pending)
            self._sent_bytes += pending.size
        if pieces:
            self.writes += 1
            self._transport.write(b"".join(pieces))
        if self._timer is None:
            self._timer = loop.call_later(self._connection.socket_timeout, self._check)

    def _pack(self, pending: PendingCommand) -> bytes:
        words = pending.words
        command = pending.command
        if command is not None:
            known = command.script in self._known and not pending.by_source
            words = command.words(self._prefix, known)
            self._known.add(command.script)
        packed: bytes = hiredis.pack_command(tuple(words))
        return packed

    def _check(self, overdue: bool = False) -> None:
        """Gives the connection up if it has been silent for too long, also at a second look (`overdue`)."""
        self._timer = None
        if self._sent:
            loop = asyncio.get_running_loop()
            left_s = self._heard_at + self._connection.socket_timeout - loop.time()
            if left_s > 0 or not overdue:
                self._timer = loop.call_later(max(left_s, READ_S), self._check, left_s <= 0)
            else:
                self._lost(redis.exceptions.TimeoutError("Redis did not answer in time"))

    def data_received(self, data: bytes) -> None:
        """Passes replies on, which arrive in the order of the commands."""
        self._heard_at = asyncio.get_running_loop().time()
        self._reader.feed(data)
        try:
            while self._sent and (reply := self._reader.gets()) is not _NOTHING:
                if isinstance(reply, redis.exceptions.RedisError):
                    self._refused(reply)
                else:
                    self._answered().answer(reply)
        except redis.exceptions.RedisError as error:
            self._lost(error)
            return
        if not self._sent and self._reader.has_data():
            self._disconnect()  # the next command would take the surplus reply for its own
        if self._waiting:
            self._schedule()

    def _answered(self) -> PendingCommand:
        """Removes the command that the next reply belongs to."""
        pending = self._sent.popleft()
        self._sent_bytes -= pending.size
        return pending

    def _refused(self, reply: redis.exceptions.RedisError) -> None:
        """Takes an error reply. Raises it if it says that this server cannot be used now."""
        if isinstance(reply, redis.exceptions.ConnectionError):
            raise reply
        pending = self._answered()
        if isinstance(reply, redis.exceptions.NoScriptError) and not pending.by_source:
            pending.by_source = True
            # Behind those that came before it.
            self._waiting.insert(sum(one.by_source for one in self._waiting), pending)
        else:
            pending.fail(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed the connection, or the network failed."""
        self._lost(_closed(exc or "by the server"))

    def _lost(self, error: Exception) -> None:
        """Sends the commands without a reply again over a new connection, or fails them."""
        self._disconnect()
        unanswered = self._sent
        self._sent = deque()
        again = isinstance(error, redis.exceptions.ConnectionError)
        for pending in reversed(unanswered):
            pending.tries -= 1
            if again and pending.tries:
                self._waiting.appendleft(pending)
            else:
                pending.fail(error)
        self._schedule()

    def _disconnect(self) -> None:
        self._sent_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.set_protocol(asyncio.Protocol())  # its end is not that of the next connection
            self._transport.abort()
            self._transport = None


def _closed(why: object) -> redis.exceptions.ConnectionError:
    return redis.exceptions.ConnectionError(f"the connection was closed: {why}")
