"""The supervisor's side of a connection to a driver.

Used by the supervisor, so standard library only, and little of it.
"""

from __future__ import annotations

import json
import socket

from drawbar_local import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Driver:
    """A connection to a driver. Nothing that is sent here ever waits for the other side."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.received = bytearray()
        self.unsent = bytearray()

    def tell(self, *message: object) -> None:
        """Put a message into the next packet."""
        self.unsent += records.encode(message).encode() + b"\n"

    def flush(self) -> bool:
        """Send what can be sent now. False when nobody is there any more."""
        try:
            sent = self.connection.send(self.unsent)
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self.unsent[:sent]
        return True

    def messages(self) -> list[Any] | None:
        """The whole messages that came in. None at the end of the connection."""
        try:
            data = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        self.received += data
        if b"\n" not in data:
            return []
        *lines, rest = self.received.split(b"\n")
        self.received = rest
        return [json.loads(line) for line in lines]
