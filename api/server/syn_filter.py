"""The door of a port: who is inside is served, who comes later stays outside.

A port that closes resets all connections that the kernel has taken and the server has not, whatever was sent
on them. So new ones are kept out first, and the server takes those that are left before it closes the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import sys

_SO_ATTACH_FILTER = 26
# Classic BPF on what comes to the port, from the TCP header on.
_NO_SYN = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the byte of flags
        (0x45, 0, 1, 0x02),  # unless it has SYN: one further
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)


class Door:
    """Of a listening socket that this process closes."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener

    def shut(self) -> None:
        """Who knocks now hears nothing, and knocks again a second later: at a closed port or a new process.

        Handshakes under way go on. Linux only: elsewhere, and where filters are forbidden, it stays open.
        """
        if sys.platform == "linux":
            code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
            program = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(code))
            with contextlib.suppress(OSError):
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def crowded(self) -> bool:
        """Somebody is inside whom the server has not taken yet."""
        if self._listener.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))
