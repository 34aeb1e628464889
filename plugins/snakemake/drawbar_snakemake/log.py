"""What Snakemake logs, in the run's log and in the words of a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake.logging import DefaultFormatter, logger
from snakemake_interface_logger_plugins.common import LogEvent

_TAIL_BYTES = 16384
_TAIL_LINES = 12
NESTED_TAIL_LINES = 40
"""A nested Snakemake says some twenty lines after the last words of the command that failed."""
_KEPT_ERRORS = 20
_LEFT_OUT = frozenset({LogEvent.SHELLCMD, LogEvent.JOB_STARTED, LogEvent.DEBUG_DAG})


class RunLog(logging.Handler):
    """Passes every message on, line by line, as `write(logger, level, message, thread)`.

    What Snakemake says of the jobs that it has, and of those that are done, goes to `progress(total, done)`.
    `errors` are the last messages of level error, in Snakemake's words; `failed` are rules whose job
    failed, each with what was said about it.
    """

    def __init__(
        self,
        write: Callable[[str, str, str, str], None],
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        super().__init__(logging.INFO)
        self.done = 0
        self.errors: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self._write = write
        self._progress = progress
        self.setFormatter(DefaultFormatter())

    def install(self) -> None:
        """Be the only handler of Snakemake's logger, which `SnakemakeApi` has set up."""
        logger.handlers.clear()
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message, unless it says nothing to a reader."""
        event = getattr(record, "event", None)
        if event in _LEFT_OUT:
            return
        if event is LogEvent.RUN_INFO:
            self._progress(record.__dict__["stats"]["total"], self.done)
        elif event is LogEvent.PROGRESS:
            self.done = record.__dict__["done"]
            self._progress(record.__dict__["total"], self.done)
        try:
            text = self.format(record).strip()
        except Exception:  # a message must not end a run
            text = record.getMessage()
        if event is LogEvent.JOB_ERROR:
            self.failed.append((str(record.__dict__["rule_name"]), record.__dict__["rule_msg"] or ""))
        elif record.levelno >= logging.ERROR and event is not LogEvent.GROUP_ERROR:
            self.errors = [*self.errors, text][-_KEPT_ERRORS:]
        for line in text.splitlines():
            if line.strip():
                self._write("snakemake.logging", record.levelname, line.rstrip(), record.threadName or "")


def tail(path: Any, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of a file, as they may be shown on a terminal; none when it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return []
    shown = [
        "".join(each if each.isprintable() or each == "\t" else "\ufffd" for each in line)
        for line in text.splitlines()
    ]
    return [line for line in shown if line.strip()][-lines:]
