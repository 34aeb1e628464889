"""Calls of a backend's methods, one after another on a thread of their own, each with a deadline.

A call that passes its deadline is given up: its answer counts as an error, and a new thread takes the
lane over, since a thread cannot be stopped.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from drawbar.errors import BackendError


@dataclass(slots=True)
class _Call:
    work: Callable[[], Any]
    done: Callable[[Any, Exception | None], None]
    started: float | None = None
    over: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def finish(self, value: Any, error: Exception | None) -> bool:
        """Deliver the answer, once; False when somebody else did."""
        with self.lock:
            if self.over:
                return False
            self.over = True
        self.done(value, error)
        return True


class Lane:
    """One thread at a time that works off calls in order. `done` of a call runs on that thread."""

    def __init__(self, name: str, deadline_s: float) -> None:
        self.name = name
        self.deadline_s = deadline_s
        self._calls: deque[_Call] = deque()
        self._wake = threading.Condition()
        self._current: _Call | None = None
        self._worker: threading.Thread | None = None
        self._closed = False

    def call(self, work: Callable[[], Any], done: Callable[[Any, Exception | None], None]) -> None:
        """Queue a call; `done(value, error)` comes exactly once."""
        with self._wake:
            self._calls.append(_Call(work, done))
            if self._worker is None:
                self._start()
            self._wake.notify()

    def overdue(self, now: float) -> None:
        """Give up the present call if it is past its deadline; to be called from time to time."""
        with self._wake:
            call = self._current
            if call is None or call.started is None or now - call.started < self.deadline_s:
                return
            self._current = None
            self._start()
        call.finish(None, BackendError(f"no answer within {self.deadline_s:.0f} s", transient=True))

    def close(self) -> None:
        """No more calls; the ones queued are dropped, the present one is waited for, but not for long."""
        with self._wake:
            self._closed = True
            self._calls.clear()
            self._wake.notify_all()
            worker = self._worker
        if worker is not None:
            worker.join(2.0)

    def _start(self) -> None:
        self._worker = threading.Thread(target=self._work, name=self.name, daemon=True)
        self._worker.start()

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._calls and not self._closed and self._worker is threading.current_thread():
                    self._wake.wait()
                if self._worker is not threading.current_thread() or not self._calls:
                    return
                call = self._current = self._calls.popleft()
                call.started = time.monotonic()
            value, error = None, None
            try:
                value = call.work()
            except Exception as failure:
                error = failure
            with self._wake:
                if self._current is call:
                    self._current = None
            call.finish(value, error)
