"""Drives a run: the handle that the command line and the Python API hold on it."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable

from drawbar.drive import Drive
from drawbar.driveresult import DriveResult
from drawbar.enginehost import EngineProcess, StartEngine, end_old_engine
from drawbar.errors import DrawbarError, ThreadDied
from drawbar.history import Counts
from drawbar.home import RunDirectory
from drawbar.hookspecs import Event
from drawbar.plugins import Plugins
from drawbar.settings import Settings
from drawbar.sources import Changes
from drawbar.store import Store
from drawbar.threads import watched

__all__ = ["DriveResult", "Driver"]


class Driver:
    """Drives the run in `directory`. `drive` once; `cancel` and `let_go` from any thread.

    `observe` is told every event, on the driving thread, and must return quickly. `from_step` repeats
    that step and what follows from it; `as_was` ignores edits of the analysis; `take_over` is the
    user's word that a silent driver on another host is gone. `start_engine` gives the engine process:
    a new one, or, for many runs, one of a `WarmParent`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        settings: Settings,
        plugins: Plugins,
        observe: Callable[[Event], None] | None = None,
        notice: Callable[[str], None] | None = None,
        from_step: str | None = None,
        as_was: bool = False,
        take_over: bool = False,
        start_engine: StartEngine = EngineProcess.start,
    ) -> None:
        self.directory = directory
        self.changes = Changes()
        self.settings = settings
        self.plugins = plugins
        self.observer = observe
        self.notice = notice
        self.from_step = from_step
        self.as_was = as_was
        self._take_over = take_over
        self.start_engine = start_engine
        self.posted: deque[Callable[[], None]] = deque()
        self.wake_read, self._wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.cancel_asked = False
        self.letting_go = False
        self.progress = Counts()
        self.backend_trouble: list[str] = []
        self.paused = ""

    # from any thread

    def cancel(self) -> None:
        """Ask for the jobs to be cancelled; the run ends as stopped."""
        self.cancel_asked = True
        self._wake()

    def let_go(self) -> None:
        """Stop driving and leave the jobs alive; the run shows as interrupted."""
        self.letting_go = True
        self._wake()

    @property
    def trouble(self) -> list[str]:
        """What does not work at the moment, but fails nothing."""
        return [*([self.paused] if self.paused else []), *self.backend_trouble]

    def post(self, work: Callable[[], None]) -> None:
        """Have `work` called on the driving thread."""
        self.posted.append(work)
        self._wake()

    def _broken(self, what: str) -> None:
        def fail() -> None:
            raise ThreadDied(f"{what}; its jobs go on")

        self.post(fail)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b".")

    # the drive

    def drive(self) -> DriveResult:
        """Drive the run until it ends, or this driver is told to let go.

        Raises `LeaseError` when another driver has it, and other `DrawbarError`s when it could not
        be started; the run is then as it was. Once jobs may run, every end is a `DriveResult`.
        """
        with Store(self.directory.store) as store:
            store.acquire(take_over=self._take_over)
            try:
                end_old_engine(self.directory)
                with watched(self._broken):
                    return Drive(self, store).run()
            finally:
                with contextlib.suppress(DrawbarError):
                    store.release()
                os.close(self.wake_read)
                wake, self._wake_write = self._wake_write, -1
                os.close(wake)
