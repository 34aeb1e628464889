"""The engine process's end of the wire to the driver (`drawbar.wire`).

The thread that executes the engine reads for itself, when it waits: a message costs no change of threads.
Another thread only watches for the connection's end, which has to be noticed while the engine is at work.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Thread
from typing import Any, NoReturn

from drawbar.wire import Buffer, Message, pack, receive

_BATCH = 200
"""Messages that are held back at most before they are sent together."""

_WAKE_BYTES = 4096


class Channel:
    """The connection to the driver. At its end this process has no reason to live, and `on_end` is called.

    For one thread, but for `put`. `on_end` may be called on a thread of the channel's own.
    """

    def __init__(self, connection: socket.socket, on_end: Callable[[], NoReturn]) -> None:
        self._connection = connection
        self._on_end = on_end
        self._buffer = Buffer()
        self._incoming: deque[Message] = deque()
        self._aside: deque[Message] = deque()
        self._own: deque[Message] = deque()
        self._outgoing: list[Message] = []
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._readable.register(self._woken, select.POLLIN)
        Thread(target=self._watch, name="drawbar-wire", daemon=True).start()

    def send(self, *message: Any, now: bool = False) -> None:
        """Say something, with the next frame or at once."""
        self._outgoing.append(list(message))
        if now or len(self._outgoing) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what was held back."""
        if self._outgoing:
            messages, self._outgoing = self._outgoing, []
            try:
                self._connection.sendall(pack(messages))
            except OSError:
                self._on_end()

    def next(self) -> Message:
        """The next message of the driver, waiting for it; what was held back is sent before waiting."""
        if self._aside:
            return self._aside.popleft()
        if not self._incoming:
            self.flush()
        return self._take()

    def put(self, *message: Any) -> None:
        """Have `next` return a message that is from this process itself. For any thread."""
        self._own.append(list(message))
        with suppress(BlockingIOError):  # so many are waiting that nobody needs to be woken
            os.write(self._wake, b"\0")

    def ask(self, *message: Any, answers: Sequence[str]) -> Message:
        """Say something and wait for one of these kinds of message; others are kept for `next`."""
        self.send(*message, now=True)
        while True:
            answer = self._take()
            if answer[0] in answers:
                return answer
            self._aside.append(answer)

    def _take(self) -> Message:
        while not self._incoming:
            ready = {descriptor for descriptor, _ in self._readable.poll()}
            if self._connection.fileno() in ready:
                messages = receive(self._connection, self._buffer)
                if messages is None:
                    self._on_end()
                self._incoming += messages
            if self._woken in ready:  # what is our own comes after what the driver has said by now
                os.read(self._woken, _WAKE_BYTES)
                while self._own:
                    self._incoming.append(self._own.popleft())
        return self._incoming.popleft()

    def _watch(self) -> None:
        end = select.poll()
        end.register(self._connection, select.POLLHUP)
        end.poll()
        self._on_end()
