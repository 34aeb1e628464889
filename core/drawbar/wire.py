"""How driver and engine process speak: frames of JSON over a socket pair.

A frame is a length (four bytes, network order) and a JSON list of messages; a message is a list that
begins with its kind. Whoever has several things to say puts them in one frame. A job to submit or adopt
has its specification and its key document as JSON texts, as the store keeps them.

Engine to driver                              Driver to engine
    hello {engine, version, pid}                  inspect | execute {source, ...}
    inspected {info} | failed {problems, ...}     placed {placement} | refused {problems}
    place {step, image, ...}                      found [answer, ...], whether others are alive
    lookup [[identity, try, key], ...]
    clear [[identity, try, undeclared, outputs]]  cleared
    hits n, want [[identity, try], ...]           executed identity, try, result, record
    submit [job, ...]                             prepare identity, try
    again identity, try                           accepted
    adopt job
    accept identity, try, {outputs, value, ...}
    reject identity, try, reason, message
    cancel [[identity, try], ...]
    consumed [path, ...], progress total done, notice text, start_over
    finished {outputs} | failed {...}
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from drawbar.errors import EngineDied

Message = list[Any]

_LENGTH = struct.Struct("!I")
_LARGEST = 256 * 1024 * 1024


class Buffer:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. `EngineDied` when the other side does not speak this."""
        self._bytes += data
        messages: list[Message] = []
        while len(self._bytes) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._bytes)
            if length > _LARGEST:
                raise EngineDied(f"the engine process sent a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._bytes) < end:
                break
            try:
                frame = json.loads(self._bytes[_LENGTH.size : end])
            except (ValueError, RecursionError) as error:
                raise EngineDied(f"the engine process sent what is no JSON: {error}") from error
            del self._bytes[:end]
            if not isinstance(frame, list) or not all(isinstance(each, list) and each for each in frame):
                raise EngineDied("the engine process sent what is no list of messages")
            messages += frame
        return messages


def pack(messages: Sequence[Message]) -> bytes:
    """A frame of these messages."""
    data = json.dumps(messages, separators=(",", ":")).encode()
    return _LENGTH.pack(len(data)) + data


def receive(connection: socket.socket, buffer: Buffer) -> list[Message] | None:
    """The next messages, waiting for them; None at the end of the connection."""
    while True:
        try:
            data = connection.recv(1 << 16)
        except ConnectionError:
            return None
        if not data:
            return None
        messages = buffer.feed(data)
        if messages:
            return messages
