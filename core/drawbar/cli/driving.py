"""Drives a run in this process: signals, progress, and what is said at its end.

The driver works on a thread of its own. This one waits for what happens, in one queue: signals, notices,
the start and the end of the run. So a signal handler only puts a word into the queue, whatever it
interrupted. Events of jobs, of which there may be thousands in a second, wake nobody: they are shown
from time to time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from drawbar import report
from drawbar.cli.common import App, print_json
from drawbar.cli.failures import say
from drawbar.cli.looking import copy_outputs
from drawbar.cli.testing import evaluate_tests, failed, show_tests
from drawbar.control import finishing
from drawbar.driver import Driver, DriveResult
from drawbar.errors import SpecError
from drawbar.home import RunDirectory
from drawbar.hookspecs import Event
from drawbar.model import RunState
from drawbar.progress import Silent, display
from drawbar.removal import delete, thin

_LET_GO_S = 30.0
_MOST_OUTPUTS = 20
_LETTING_GO = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a user wants of a drive, and after it."""

    from_step: str | None = None
    as_was: bool = False
    take_over: bool = False
    cancel: bool = False
    outputs: Path | None = None
    test: bool = False
    as_json: bool = False
    quiet: bool = False
    fresh: bool = False
    """The run was just made: if its workflow turns out wrong before any job, it is unmade."""


def drive(
    app: App, directory: RunDirectory, wishes: Wishes, *, started: Callable[[], None] = lambda: None
) -> int:
    """Drive a run to its end, and do what is wished for then; returns the exit status.

    `started` is called once when the run is running. Raises the errors of `Driver.drive`.
    """
    spec = directory.spec()
    inbox: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    jobs: deque[Event] = deque()

    def observe(event: Event) -> None:
        if event.identity is None:
            inbox.put(("run", event))
        else:
            jobs.append(event)

    settings = app.settings(spec.source)
    driver = Driver(
        directory,
        settings=settings,
        plugins=app.plugins,
        observe=observe,
        notice=lambda text: inbox.put(("notice", text)),
        from_step=wishes.from_step,
        as_was=wishes.as_was,
        take_over=wishes.take_over,
    )
    if wishes.cancel:
        driver.cancel()
    terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    shown = display(quiet=wishes.quiet, terminal=terminal)
    with finishing(directory):
        try:
            with _signals(inbox):
                result = _Drive(driver, shown, inbox, jobs, started).wait()
        finally:
            shown.close()
        if wishes.fresh and isinstance(result.error, SpecError) and not report.attempts(directory):
            delete(directory)
            raise result.error
        status = _finish(app, directory, wishes, result)
        if result.state is RunState.FINISHED:
            thin(directory, settings.keep)
    return status


class _Drive:
    """A driver at work, and what this thread does meanwhile."""

    def __init__(
        self,
        driver: Driver,
        shown: Silent,
        inbox: SimpleQueue[tuple[str, Any]],
        jobs: deque[Event],
        started: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._shown = shown
        self._inbox = inbox
        self._jobs = jobs
        self._started = started
        self._interrupts = 0
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._work, name="driver", daemon=True)

    def wait(self) -> DriveResult:
        """Return, or raise, what the driver does."""
        self._thread.start()
        while True:
            try:
                kind, value = self._inbox.get(timeout=self._shown.interval_s)
            except Empty:
                kind, value = "", None
            self._show()
            if kind == "result":
                self._thread.join()
                assert isinstance(value, DriveResult)
                return value
            if kind == "error":
                self._thread.join()
                raise value
            self._take(kind, value)
            if self._deadline is not None and time.monotonic() > self._deadline:
                say(f"{self._driver.directory.id}: the driver does not let go; ending it")
                os._exit(130)

    def _work(self) -> None:
        try:
            self._inbox.put(("result", self._driver.drive()))
        except BaseException as error:
            self._inbox.put(("error", error))

    def _show(self) -> None:
        self._shown.update(self._driver.progress, self._driver.trouble)
        while self._jobs:
            self._shown.event(self._jobs.popleft())

    def _take(self, kind: str, value: Any) -> None:
        if kind == "run" and value.state is RunState.RUNNING:
            self._started()
        elif kind == "notice":
            self._shown.note(value)
        elif kind == "signal":
            self._signalled(value)

    def _signalled(self, number: int) -> None:
        self._interrupts += number == signal.SIGINT
        if number == signal.SIGINT and self._interrupts == 1:
            self._shown.say(
                "cancelling the jobs; a second Ctrl-C leaves them alive and ends only this program"
            )
            self._driver.cancel()
        elif self._deadline is None:
            self._deadline = time.monotonic() + _LET_GO_S
            self._driver.let_go()


@contextmanager
def _signals(inbox: SimpleQueue[tuple[str, Any]]) -> Iterator[None]:
    """Have signals put into the queue, but for those that somebody (`nohup`) had this process ignore."""

    def handle(number: int, _: Any) -> None:
        inbox.put(("signal", number))

    heard = [each for each in (signal.SIGINT, *_LETTING_GO) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(app: App, directory: RunDirectory, wishes: Wishes, result: DriveResult) -> int:
    """Say how it ended, copy outputs, evaluate tests; the exit status of all that."""
    tell = (lambda _: None) if wishes.quiet else say
    status = result.exit_status
    if result.state is None:
        say(f"{directory.id}: {result.message}; go on with `{report.resume_command(directory)}`")
    elif result.state is RunState.STOPPED:
        say(f"{directory.id}: stopped; go on with `{report.resume_command(directory)}`")
    elif result.state is RunState.FAILED:
        say(f"drawbar: error: {directory.id} failed: {result.message}")
        tell(f"  see `drawbar logs {directory.id}`; after a repair: `{report.resume_command(directory)}`")
    else:
        tell(f"{directory.id}: finished")
        if wishes.outputs is not None:
            copy_outputs(directory, wishes.outputs)
        else:
            _tell_outputs(directory, tell)
        if wishes.test:
            results = evaluate_tests(directory, app.plugins)
            show_tests(results)
            status = max(status, int(failed(results)))
    if wishes.as_json:
        print_json(report.document(directory))
    return status


def _tell_outputs(directory: RunDirectory, tell: Callable[[str], None]) -> None:
    workspace = Path(directory.spec().workspace)
    found = report.outputs(directory)
    for output in found[:_MOST_OUTPUTS]:
        tell(f"  {workspace / output['path']} ({report.size(output['size'])})")
    if len(found) > _MOST_OUTPUTS:
        tell(f"  and {len(found) - _MOST_OUTPUTS} more: `drawbar outputs {directory.id}`")
