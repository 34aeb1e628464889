"""An append-only file of JSON objects, one a line, with one writer at a time.

An event is there as a whole or not at all, whenever the writer is killed: a last line that is not
complete is cut off when the file is opened again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from drawbar.copying import naming, printable
from drawbar.errors import InfrastructureError


class Journal:
    """The journal in the file `path`; `events` are those found there. For one process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with naming("open", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            text = path.read_bytes()
            self._size = text.rfind(b"\n") + 1
            if self._size < len(text):
                os.ftruncate(self._file, self._size)
        self.events: list[dict[str, Any]] = []
        for number, line in enumerate(text[: self._size].splitlines(), start=1):
            try:
                self.events.append(json.loads(line))
            except ValueError as error:
                raise InfrastructureError(
                    f"{printable(path)}:{number}: damaged ({error}); delete the run and start it again"
                ) from error

    def append(self, event: dict[str, Any], *, durable: bool = False) -> None:
        """Add an event; with `durable` it survives a power failure, in any case a killed process.

        After an error the journal is as before.
        """
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with naming("write", self._path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                if durable:
                    os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
        self._size += len(line)

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)
