"""Calls of a scheduler: within a budget, with a time limit, and fewer of them when it is in trouble."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawbar.errors import BackendError

_LONGEST_PAUSE_S = 60.0


class Busy(BackendError):
    """The scheduler did nothing of what it was asked; later it may."""

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


class Rejected(BackendError):
    """The scheduler did nothing of what it was asked, and never will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command that ended said."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """What it said to explain itself, on one line."""
        return " ".join((self.err or self.out).split())[:1000] or f"it ended with code {self.code}"


@dataclass(slots=True)
class Budget:
    """At most `per_minute` calls, in bursts of up to a quarter of that. For any thread."""

    per_minute: float
    made: int = 0
    """Calls so far."""
    closing: threading.Event = field(default_factory=threading.Event)
    _tokens: float = -1.0
    _checked: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> None:
        """Wait for a call's turn; `Busy` when `closing` is set meanwhile."""
        while wait_s := self._wait_s():
            if self.closing.wait(wait_s):
                raise Busy("drawbar is closing")

    def _wait_s(self) -> float:
        with self._lock:
            now, burst = time.monotonic(), max(1.0, self.per_minute / 4)
            if self._tokens < 0:
                self._tokens = burst
            self._tokens = min(burst, self._tokens + (now - self._checked) * self.per_minute / 60)
            self._checked = now
            if self._tokens >= 1:
                self._tokens -= 1
                self.made += 1
                return 0.0
            return (1 - self._tokens) * 60 / self.per_minute


@dataclass(slots=True)
class Pause:
    """How long to leave a scheduler alone: doubling after each failure, over with the first success."""

    seconds: float = 0.0
    until: float = 0.0

    @property
    def over(self) -> bool:
        """Whether the scheduler may be asked again."""
        return time.monotonic() >= self.until

    def longer(self) -> None:
        """It failed again."""
        self.seconds = min(max(1.0, 2 * self.seconds), _LONGEST_PAUSE_S)
        self.until = time.monotonic() + self.seconds

    def end(self) -> None:
        """It answered."""
        self.seconds = self.until = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Runs the commands of a scheduler, in a scrubbed environment."""

    budget: Budget
    timeout_s: float
    environment: Mapping[str, str]

    def run(self, *argv: str, stdin: str = "", directory: str | None = None) -> Done:
        """The command's exit code and what it said.

        Raises `Rejected` when there is no such command, and `BackendError` when it did not end in
        time: then it was killed, and what it was to do may have been done.
        """
        self.budget.take()
        try:
            done = subprocess.run(
                argv,
                input=stdin.encode(errors="surrogateescape"),
                capture_output=True,
                timeout=self.timeout_s,
                env=self.environment,
                cwd=directory or "/",
                check=False,
                start_new_session=True,  # a Ctrl-C is drawbar's, not the command's
            )
        except subprocess.TimeoutExpired as error:
            raise BackendError(
                f"{argv[0]} did not end within {self.timeout_s:g} s", transient=True
            ) from error
        except FileNotFoundError as error:
            raise Rejected(
                f"there is no command {argv[0]!r} here; install the scheduler's client, or say where it is "
                "with `bin_directory`"
            ) from error
        except OSError as error:
            raise BackendError(f"cannot run {argv[0]}: {error.strerror}", transient=True) from error
        return Done(
            code=done.returncode,
            out=done.stdout.decode(errors="replace"),
            err=done.stderr.decode(errors="replace"),
        )


def environment(names: Sequence[str], more: Mapping[str, str]) -> dict[str, str]:
    """Of drawbar's own environment what has one of these names, and `more`."""
    return {name: os.environ[name] for name in names if name in os.environ} | dict(more)
