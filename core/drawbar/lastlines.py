"""The end of a job's log, for the message that says that the job failed."""

from __future__ import annotations

import os
from pathlib import Path

_SHOWN_BYTES = 4096
_SHOWN_LINES = 10


def last_lines(path: Path) -> list[str]:
    """The end of a log, as it may be shown on a terminal; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _SHOWN_BYTES))
            text = file.read(_SHOWN_BYTES).decode(errors="replace")
    except OSError:
        return []
    shown = [
        "".join(each if each.isprintable() or each == "\t" else "�" for each in line)
        for line in text.splitlines()
    ]
    return [line for line in shown if line.strip()][-_SHOWN_LINES:]
