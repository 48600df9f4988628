"""Drops new connections shortly before a port closes, so that no accepted connection is reset.

Closing a port resets the connections in its accept backlog, even if clients have sent requests on them. So
new connections are dropped first, and the server accepts the pending ones before it closes the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys

_SO_ATTACH_FILTER = 26
# A classic BPF program for packets that arrive at the port, starting at the TCP header.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte with the TCP flags
        (0x45, 0, 1, 0x02),  # if SYN is not set, skip one instruction
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # accept
    )
)


class SynFilter:
    """Filters new connections to a listening socket."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def drop_new(self) -> None:
        """Drops new SYN packets. Handshakes that have begun are completed.

        Clients retransmit after about a second and reach either a closed port or the new process. This does
        nothing on systems other than Linux, or where filters are not permitted.
        """
        if sys.platform == "linux":
            code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
            program = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(code))
            with contextlib.suppress(OSError):
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def backlog_waiting(self) -> bool:
        """Whether the accept backlog holds connections that the server has not accepted yet."""
        if self._listener.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))
