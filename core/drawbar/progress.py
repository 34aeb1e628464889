"""How a drive is shown while it goes on: a live line on a terminal, plain lines elsewhere, or nothing.

Everything goes to standard error, where nobody has to be any more: what cannot be written is dropped.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from typing import TextIO

from drawbar.history import NEW, Counts
from drawbar.hookspecs import Event
from drawbar.model import JobState
from drawbar.report import legible

_MANY_JOBS = 100
_SUMMARY_EVERY_S = 5.0
_MOST_NAMES = 3


class Silent:
    """Shows nothing but what is said to it, and is the base of those that show more."""

    interval_s = 1.0
    """How often `update` wants to be called."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._told: set[tuple[str | None, str]] = set()

    def say(self, text: str) -> None:
        """Write a line."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(legible(text) + "\n")
            self._stream.flush()

    def _tell_why(self, event: Event) -> None:
        """Say why a step that has run before is repeated, once."""
        reason = (event.step, event.message)
        if event.message not in ("", NEW) and reason not in self._told:
            self._told.add(reason)
            self.say(f"  {event.step}: again ({event.message.removeprefix('repeated: ')})")

    def note(self, text: str) -> None:
        """The driver says something that the user may want to know."""

    def event(self, event: Event) -> None:
        """A job came to a new state."""

    def update(self, counts: Counts, trouble: list[str]) -> None:
        """How many jobs are where now."""

    def close(self) -> None:
        """The drive is over."""


class Plain(Silent):
    """A line for each job that ended; when there are many, for failures, and a summary from time to time."""

    interval_s = 0.5

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._counts = Counts()
        self._trouble: list[str] = []
        self._next_summary = 0.0
        self._ended = 0
        self._shown = 0

    def note(self, text: str) -> None:
        """See `Silent.note`."""
        self.say(f"  {text}")

    def event(self, event: Event) -> None:
        """See `Silent.event`."""
        self._ended += event.state.terminal
        many = max(self._counts.total or 0, self._ended) > _MANY_JOBS
        if event.state is JobState.QUEUED:
            self._tell_why(event)
        elif event.state is JobState.FINISHED and not many:
            self.say(f"  {event.step}: finished{self._place()}")
        elif event.state in (JobState.FAILED, JobState.CANCELLED):
            reason = f" ({event.reason})" if event.reason else ""
            self.say(f"  {event.step}: {event.state}{reason}{self._place()}")
        elif event.state is JobState.RUNNING and not many:
            self.say(f"  {event.step}: running on {event.backend}")

    def update(self, counts: Counts, trouble: list[str]) -> None:
        """See `Silent.update`."""
        self._counts = counts
        for each in trouble:
            if each not in self._trouble:
                self.say(f"  trouble: {each}")
        self._trouble = list(trouble)
        now = time.monotonic()
        if self._ended > _MANY_JOBS and self._ended != self._shown and now >= self._next_summary:
            self._next_summary, self._shown = now + _SUMMARY_EVERY_S, self._ended
            self.say(f"  {summary(counts)}")

    def _place(self) -> str:
        total = self._counts.total
        ended = max(self._ended + self._counts.cached, self._counts.done or 0)
        return f" [{ended}/{total}]" if total else ""


class Live(Silent):
    """One line that is drawn again and again, with failures above it."""

    interval_s = 0.1

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        super().__init__()
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=self._console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._running: dict[str, str] = {}
        self._open = True
        self._try(self._progress.start)

    def say(self, text: str) -> None:
        """See `Silent.say`."""
        if self._open:
            self._try(lambda: self._console.print(legible(text), markup=False, soft_wrap=True))
        else:
            super().say(text)

    def note(self, text: str) -> None:
        """See `Silent.note`."""
        self.say(f"  {text}")

    def event(self, event: Event) -> None:
        """See `Silent.event`."""
        if event.state is JobState.QUEUED:
            self._tell_why(event)
        elif event.state is JobState.RUNNING:
            self._running[str(event.identity)] = event.step or ""
        elif event.state.terminal:
            self._running.pop(str(event.identity), None)
            if event.state is JobState.FAILED:
                self.say(f"  {event.step}: failed" + (f" ({event.reason})" if event.reason else ""))

    def update(self, counts: Counts, trouble: list[str]) -> None:
        """See `Silent.update`."""
        waiting = f"{counts.queued} waiting" if counts.queued else ""
        words = "; ".join(filter(None, [*trouble, self._names(), waiting]))
        self._progress.update(
            self._task, completed=counts.ended, total=counts.total, description=legible(words)
        )
        self._try(self._progress.refresh)

    def close(self) -> None:
        """See `Silent.close`."""
        if self._open:
            self._open = False
            self._try(self._progress.stop)

    def _names(self) -> str:
        steps = Counter(self._running.values())
        names = [f"{count} {step}" if count > 1 else step for step, count in steps.most_common(_MOST_NAMES)]
        return ", ".join([*names, "…"] if len(steps) > _MOST_NAMES else names)

    def _try(self, action: object) -> None:
        """Draw, unless the terminal is gone."""
        assert callable(action)
        with contextlib.suppress(OSError, ValueError):
            action()


def summary(counts: Counts) -> str:
    """How many jobs are where, in words."""
    total = f" of {counts.total}" if counts.total else ""
    parts = {
        "remembered": counts.cached,
        "failed": counts.failed,
        "running": counts.running,
        "waiting": counts.queued,
    }
    more = "".join(f", {count} {what}" for what, count in parts.items() if count)
    return f"{counts.ended}{total} jobs ended{more}"


def display(*, quiet: bool, terminal: bool) -> Silent:
    """What suits the occasion."""
    if quiet:
        return Silent()
    return Live() if terminal else Plain()
