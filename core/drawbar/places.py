"""A backend in use by a run: its threads, its queue of waiting jobs, and its attempts in doubt."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from drawbar.backend import Attempt, Backend, InDoubt, JobStatus, Submission
from drawbar.errors import InfrastructureError
from drawbar.lanes import Lane
from drawbar.queueing import Budget, Queue, Rate
from drawbar.store import AttemptRow

Post = Callable[[Callable[[], None]], None]
"""Has a function called on the driver's thread; may be called from any thread."""

_FIRST_LOOK_S = 0.2
_LONGEST_LOOK_S = 30.0


class Place:
    """For the driver's thread; answers of the backend arrive there too, through `post`.

    `heard` is told what the backend tells of its jobs. `problem` says what the backend cannot do at
    the moment. Calls to the backend have two lanes, one for submits and one for everything else, so
    that a slow submit does not delay a cancel.
    """

    def __init__(
        self,
        name: str,
        backend: Backend,
        budgets: Sequence[Budget],
        rates: Sequence[Rate],
        *,
        post: Post,
        heard: Callable[[Sequence[JobStatus]], None],
    ) -> None:
        self.name = name
        self.queue: Queue[AttemptRow] = Queue(budgets, rates)
        self.problem = ""
        self.ended: list[AttemptRow] = []
        """Attempts that ended and that the backend has not been told to forget."""
        self._backend = backend
        self._post = post
        self._heard = heard
        self._submits = Lane(f"drawbar-{name}-submit", backend.deadline_s)
        self._others = Lane(f"drawbar-{name}", backend.deadline_s)
        self._doubts: dict[str, tuple[Attempt, float]] = {}
        self._handing: set[str] = set()
        """Tags in a call of submit that has not returned, given up or not."""
        self._looking = False
        self._look_at = 0.0
        self._look_s = _FIRST_LOOK_S
        try:
            backend.start(self)
        except InfrastructureError:
            raise
        except Exception as error:
            raise InfrastructureError(f"the backend {name!r} cannot be started: {error}") from error

    # what the backend tells, from any thread (drawbar.backend.EventSink)

    def status(self, statuses: Sequence[JobStatus]) -> None:
        """Attempts changed state."""
        for status in statuses:
            if not isinstance(status, JobStatus):
                raise TypeError(f"a backend tells what it knows as JobStatus, not as {status!r}")
        self._post(lambda: self._heard(statuses))

    def trouble(self, message: str) -> None:
        """The backend cannot see its jobs at the moment."""
        self._post(lambda: setattr(self, "problem", message))

    # what the backend is asked

    def submit(self, attempts: Sequence[Attempt], done: Callable[[Sequence[Submission]], None]) -> None:
        """Hand attempts over; `done` gets one answer for each. What failed as a whole is in doubt."""

        def answered(answers: Any, error: Exception | None) -> None:
            if (
                isinstance(answers, Sequence)
                and len(answers) == len(attempts)
                and all(isinstance(each, Submission) for each in answers)
            ):
                self.problem = ""
                done(answers)
            else:
                self.problem = str(error or f"its submit answered {answers!r} for {len(attempts)} jobs")
                done([InDoubt(message=self.problem)] * len(attempts))

        tags = {attempt.tag for attempt in attempts}
        self._handing |= tags

        def work() -> Sequence[Submission]:
            try:
                return self._backend.submit(attempts)
            finally:
                self._post(lambda: self._handed(tags))

        self._call(self._submits, work, answered)

    def _handed(self, tags: set[str]) -> None:
        """A submit has returned, in time or late: only from now on can a job prove not to exist."""
        self._handing -= tags
        until = time.monotonic() + self._backend.grace_s
        for tag in tags & self._doubts.keys():
            self._doubts[tag] = (self._doubts[tag][0], until)

    def doubt(self, attempt: Attempt) -> None:
        """It is not known whether the backend has this attempt: `look` until it is."""
        self._doubts[attempt.tag] = (attempt, time.monotonic() + self._backend.grace_s)
        self._look_s = _FIRST_LOOK_S
        self._look_at = min(self._look_at, time.monotonic() + self._look_s)

    def known(self, tag: str) -> None:
        """The attempt is in doubt no longer."""
        self._doubts.pop(tag, None)

    def look(self, lost: Callable[[str], None]) -> None:
        """Ask for attempts in doubt, when it is time to. Those that are found are told as `heard`;
        `lost` gets the tag of each that is not and whose grace is over."""
        if self._looking or not self._doubts or time.monotonic() < self._look_at:
            return
        self._looking = True
        attempts = [attempt for attempt, _ in self._doubts.values()]
        asked = time.monotonic()

        def answered(found: Any, error: Exception | None) -> None:
            self._looking = False
            self._look_at = time.monotonic() + self._look_s
            self._look_s = min(2 * self._look_s, _LONGEST_LOOK_S)
            if not isinstance(found, Mapping):
                self.problem = str(error or f"its find answered {found!r}")
                return
            self.problem = ""
            for attempt in attempts:
                _, until = self._doubts.get(attempt.tag, (None, None))
                if until is None:
                    continue
                status = found.get(attempt.tag)
                if isinstance(status, JobStatus) and status.tag == attempt.tag:
                    self.known(attempt.tag)
                    self._heard([status])
                elif status is not None:
                    self.problem = f"its find answered {status!r} for {attempt.tag}"
                elif asked >= until and attempt.tag not in self._handing:
                    self.known(attempt.tag)
                    lost(attempt.tag)

        self._call(self._others, lambda: self._backend.find(attempts), answered)

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """Ask for attempts to be stopped; their ends are heard of as usual."""

        def answered(_: Any, error: Exception | None) -> None:
            self.problem = str(error) if error is not None else self.problem

        self._call(self._others, lambda: self._backend.cancel(attempts), answered)

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """The results of these attempts are durable."""
        self._call(self._others, lambda: self._backend.forget(attempts), lambda *_: None)

    def overdue(self) -> None:
        """Give up calls past their deadline."""
        now = time.monotonic()
        self._submits.overdue(now)
        self._others.overdue(now)

    def wait_s(self) -> float | None:
        """In how many seconds there is something to do even if nothing happens; None for never."""
        waits = [self.queue.wait_s]
        if self._doubts and not self._looking:
            waits.append(max(0.0, self._look_at - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def close(self) -> None:
        """Let go of the backend; jobs stay alive."""
        self._submits.close()
        self._others.close()
        with suppress(Exception):  # whatever it says, jobs stay alive and nothing more is asked of it
            self._backend.close()

    def _call(
        self, lane: Lane, work: Callable[[], Any], answered: Callable[[Any, Exception | None], None]
    ) -> None:
        lane.call(work, lambda value, error: self._post(lambda: answered(value, error)))
