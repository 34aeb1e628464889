"""The jobs that a batch system has of this driver: what is known of each, and how its end is found.

Three things tell of an end: a notice that the job leaves, the scheduler's list of jobs, and the
record of the job. The record decides. Only for a job that could not write one, or was made to stop,
the scheduler's word counts; and a job that neither knows, for a time, is lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from drawbar import batchresults, batchscript
from drawbar.backend import Attempt, JobStatus
from drawbar.batchresults import Seen
from drawbar.batchscript import End, Submitted
from drawbar.errors import BackendError
from drawbar.model import INFRASTRUCTURE, JobState, Reason
from drawbar.store import on_network

_FIRST_ASK_S = 1.0
_STOP_AGAIN_S = 10.0
_REST = 5
"""A scheduler that takes a second to answer is left alone for so many seconds."""


class Scheduler(Protocol):
    """What is asked of a scheduler about jobs that it has."""

    def queue(self) -> Iterable[Seen]:
        """Every job of this user."""

    def history(self, names: Collection[str]) -> Iterable[Seen]:
        """What is known of batches whose jobs have left the queue."""

    def stop(self, native_ids: Sequence[str]) -> None:
        """Remove jobs."""

    def collect(self, attempt: Attempt, place: Submitted) -> None:
        """Fetch what a job left where it ran."""

    def withdraw(self, place: Submitted) -> None:
        """A job was given up: nothing may start it any more."""


@dataclass(slots=True, eq=False)
class Job:
    """An attempt that was written down for the scheduler, and has not ended."""

    attempt: Attempt
    place: Submitted
    state: JobState = JobState.SUBMITTED
    native_id: str = ""
    native_state: str = ""
    message: str = ""
    handed_over: float | None = None
    """Since when the scheduler may know it (monotonic); None while it waits to be handed over."""
    gone_since: float | None = None
    """Since when the scheduler does not have it, or says that it has ended."""
    last: Seen | None = None
    """The end that the scheduler told, while the job's own record is waited for."""
    verdict: tuple[Reason, str] | None = None
    """How it ends if it does not end by itself, since it was asked to stop."""
    stopped: float = float("-inf")
    """When the scheduler was asked to stop it (monotonic)."""

    @property
    def status(self) -> JobStatus:
        """What is known of it."""
        return JobStatus(
            tag=self.attempt.tag,
            state=self.state,
            native_state=self.native_state,
            native_id=self.native_id,
            message=self.message,
        )


@dataclass(slots=True, eq=False)
class _Notices:
    """The directory in which the jobs of a batch tell of their ends, and their tags by the notice's name."""

    path: Path
    network: bool
    tags: dict[str, str] = field(default_factory=dict)


class Jobs:
    """For any thread. `tell` is given what has changed, in order: nothing of a job after its end.

    `settle_s` is how long a job may be unknown to everybody before it is lost, `poll_s` how long the
    scheduler is left alone at most.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        settle_s: float,
        poll_s: float,
        tell: Callable[[Sequence[JobStatus]], None],
    ) -> None:
        self._scheduler = scheduler
        self._settle_s = settle_s
        self._poll_s = poll_s
        self._sink = tell
        self._asking = threading.Lock()
        self._closed: list[str] = []  # records that must stay closed once the ends of their jobs are told
        self._telling = threading.Lock()
        self._lock = threading.RLock()  # guards what follows
        self._jobs: dict[str, Job] = {}
        self._ended: dict[str, JobStatus] = {}
        self._notices: dict[str, _Notices] = {}
        self._ask_at, self._ask_s, self._rest_until = 0.0, _FIRST_ASK_S, 0.0

    # the table

    def get(self, tag: str) -> Job | None:
        """A job that has not ended."""
        with self._lock:
            return self._jobs.get(tag)

    def status(self, tag: str) -> JobStatus | None:
        """What is known of an attempt, also of an ended one until it is forgotten."""
        with self._lock:
            return self._ended.get(tag) or (job.status if (job := self._jobs.get(tag)) else None)

    def add(self, attempt: Attempt, place: Submitted, *, handed_over: bool = False) -> None:
        """Watch an attempt; one that is watched, or has ended, stays as it is."""
        with self._lock:
            if attempt.tag in self._jobs or attempt.tag in self._ended:
                return
            job = self._jobs[attempt.tag] = Job(attempt, place)
            notices = self._notices.get(place.directory)
            if notices is None:
                path = Path(place.notices)
                notices = self._notices[place.directory] = _Notices(path, on_network(path))
            notices.tags[str(place.index)] = attempt.tag
            if handed_over:
                self.handed_over(job)

    def handed_over(self, job: Job, native_id: str = "") -> None:
        """The scheduler has the job, or may have it."""
        with self._lock:
            job.handed_over, job.native_id, job.message = time.monotonic(), native_id, ""
            self.hurry()

    def wait(self, attempts: Iterable[Attempt], why: str) -> None:
        """Those of these jobs that are not handed over yet wait for it; tell so where it is news."""
        message = f"it waits to be handed over{f': {why}' if why else ''}"
        with self._telling:
            news = []
            with self._lock:
                for job in filter(None, (self._jobs.get(attempt.tag) for attempt in attempts)):
                    if job.handed_over is None and job.message != message:
                        job.message = message
                        news.append(job.status)
            if news:
                self._sink(news)

    def remove(self, job: Job) -> None:
        """The job is watched no longer."""
        with self._lock:
            self._jobs.pop(job.attempt.tag, None)
            if (notices := self._notices.get(job.place.directory)) is not None:
                notices.tags.pop(str(job.place.index), None)
                if not notices.tags:
                    del self._notices[job.place.directory]

    def forget(self, tags: Iterable[str]) -> None:
        """The ends of these attempts need not be known any more."""
        with self._lock:
            for tag in tags:
                self._ended.pop(tag, None)

    def end(self, job: Job, reason: Reason | None, message: str, **evidence: Any) -> list[JobStatus]:
        """The end of a job, the first time that it is told. What nobody claimed can start no more."""
        if evidence.get("end") is None:
            with contextlib.suppress(OSError):
                self._close(job)
                self._scheduler.withdraw(job.place)
        status = batchresults.ended(job.attempt, reason, message, native_id=job.native_id, **evidence)
        with self._lock:
            if self._jobs.get(status.tag) is not job:
                return []
            self.remove(job)
            self._ended[status.tag] = status
        return [status]

    def by_record(self, attempt: Attempt) -> JobStatus | None:
        """The end of an attempt as its record tells it, or None. Raises OSError when that cannot be seen."""
        end = batchscript.read_end(attempt.record)
        if end is None or end.why == batchscript.SIGNAL:
            return None
        reason, message = batchresults.by_record(attempt, end)
        job = self.get(attempt.tag)
        if job is not None:
            self._tell(self.end(job, reason, message, end=end))
        with self._lock:
            status = batchresults.ended(attempt, reason, message, end=end)
            return self._ended.setdefault(attempt.tag, status)

    def _tell(self, statuses: Sequence[JobStatus]) -> None:
        with self._telling:
            with self._lock:
                statuses = [each for each in statuses if each.state.terminal or each.tag in self._jobs]
            if statuses:
                self._sink(statuses)

    # notices

    def look(self) -> None:
        """Tell of the jobs that have left a notice."""
        with self._lock:
            places = list(self._notices.values())
        ends: list[JobStatus] = []
        for place in places:
            if place.network:
                with contextlib.suppress(OSError):
                    os.utime(place.path)  # so that this machine does not answer from its own memory
            with contextlib.suppress(FileNotFoundError):
                for name in os.listdir(place.path):  # noqa: PTH208 (names are all that is needed)
                    if job := self.get(place.tags.get(name, "")):
                        ends += self._noticed(job)
                    (place.path / name).unlink(missing_ok=True)
        self._tell(ends)

    def _noticed(self, job: Job) -> list[JobStatus]:
        end = batchscript.read_end(job.attempt.record)
        if end is not None and end.why != batchscript.SIGNAL:
            return self._end_by_record(job, end)
        if end is not None and job.verdict is not None:
            return self.end(job, *job.verdict, end=end, seen=job.last)
        self.hurry()  # the scheduler knows who asked it to stop, and why
        return []

    # questions to the scheduler

    @property
    def due(self) -> bool:
        """Whether it is time to ask the scheduler."""
        with self._lock:
            return time.monotonic() >= self._ask_at and any(
                job.handed_over is not None for job in self._jobs.values()
            )

    def hurry(self) -> None:
        """Something is about to change: ask soon, and then ever more rarely."""
        with self._lock:
            self._ask_s = _FIRST_ASK_S
            self._ask_at = max(min(self._ask_at, time.monotonic() + _FIRST_ASK_S), self._rest_until)

    def ask(self) -> None:
        """Ask the scheduler for all jobs, and tell what has changed. Raises when it does not answer."""
        with self._asking:
            began = time.monotonic()
            queue: dict[tuple[str, int], Seen] = {}
            for each in self._scheduler.queue():
                if not each.state.terminal or (each.batch, each.index) not in queue:
                    queue[each.batch, each.index] = each  # of two copies, the one that is alive
            news, unwanted, gone = self._compare(queue, began)
            old, patience_s = self._look_back(gone)
            for job in gone:
                seen = old.get((job.place.batch, job.place.index))
                news += self._settle(job, seen, patience_s)
            closed, self._closed = self._closed, []
            with contextlib.suppress(OSError):
                batchscript.flush(closed)
            with self._lock:
                now = time.monotonic()
                self._rest_until = now + _REST * (now - began)
                self._ask_at = max(now + self._ask_s, self._rest_until)
                self._ask_s = min(2 * self._ask_s, self._poll_s)
        self._tell(news)
        self.stop(unwanted)

    def stop(self, jobs: Sequence[Job]) -> None:
        """Ask the scheduler to remove jobs whose ids are known."""
        jobs = [job for job in jobs if job.native_id]
        if jobs:
            self._scheduler.stop([job.native_id for job in jobs])
            for job in jobs:
                job.stopped = time.monotonic()
            self.hurry()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Have jobs stopped: those at the scheduler by it, the others at once."""
        ends = []
        with self._lock:
            for job in jobs:
                job.verdict = job.verdict or (Reason.CANCELLED, "it was asked to stop")
                if job.handed_over is None:
                    ends += self.end(job, *job.verdict)
        self._tell(ends)
        jobs = [job for job in jobs if self.get(job.attempt.tag) is job]
        if any(not job.native_id for job in jobs):
            self.ask()
        self.stop([job for job in jobs if job.stopped + _STOP_AGAIN_S < time.monotonic()])

    def _look_back(self, gone: Sequence[Job]) -> tuple[Mapping[tuple[str, int], Seen], float]:
        """What the scheduler remembers of jobs that it does not have, and how long to wait for more."""
        if not gone:
            return {}, self._settle_s
        try:
            seen = self._scheduler.history({job.place.batch for job in gone})
        except BackendError:
            return {}, 10 * self._settle_s  # it may answer again
        return {(each.batch, each.index): each for each in seen}, self._settle_s

    def _compare(
        self, queue: Mapping[tuple[str, int], Seen], began: float
    ) -> tuple[list[JobStatus], list[Job], list[Job]]:
        """News of the jobs; those to be removed; those that the scheduler does not have any more."""
        news: list[JobStatus] = []
        unwanted: list[Job] = []
        gone: list[Job] = []
        with self._lock:
            jobs = [
                job for job in self._jobs.values() if job.handed_over is not None and job.handed_over < began
            ]
        for job in jobs:
            seen = queue.get((job.place.batch, job.place.index))
            if seen is None or seen.state.terminal:
                job.gone_since = began if job.gone_since is None else job.gone_since
                if seen is None:
                    gone.append(job)
                else:
                    news += self._settle(job, seen)
                continue
            job.gone_since, job.native_id = None, seen.native_id or job.native_id
            state = job.state if job.state is JobState.RUNNING else seen.state
            if (state, seen.native_state, seen.message) != (job.state, job.native_state, job.message):
                job.state, job.native_state, job.message = state, seen.native_state, seen.message
                news.append(job.status)
            if seen.stuck and job.verdict is None:
                job.verdict = (seen.reason or Reason.HELD, seen.stuck)
            if job.verdict is not None and job.stopped + _STOP_AGAIN_S < began:
                unwanted.append(job)
        return news, unwanted, gone

    def _end_by_record(self, job: Job, end: End) -> list[JobStatus]:
        return self.end(job, *batchresults.by_record(job.attempt, end), end=end)

    def _settle(self, job: Job, seen: Seen | None, patience_s: float | None = None) -> list[JobStatus]:
        """The end, if it is certain, of a job that does not run at the scheduler any more."""
        attempt = job.attempt
        self._scheduler.collect(attempt, job.place)
        end = batchscript.read_end(attempt.record)
        if end is not None and end.why != batchscript.SIGNAL:
            return self._end_by_record(job, end)
        job.last = seen = seen if seen is not None and seen.state.terminal else job.last
        patience_s = self._settle_s if patience_s is None else patience_s
        waited = job.gone_since is not None and time.monotonic() - job.gone_since > patience_s
        if job.verdict is not None:
            if end is None and job.verdict[0] in INFRASTRUCTURE and not waited:
                return []  # it will be repeated, and may still be ending on its node
            return self.end(job, *job.verdict, end=end, seen=seen)
        if seen is not None and seen.reason is not None:
            reason, message = seen.reason, seen.message or seen.native_state
            if seen.unless_begun is not None and self._close(job):
                reason = seen.unless_begun
                message = f"it did not begin on {seen.host}: {message}; is {attempt.record} seen there?"
            return self.end(job, reason, message, end=end, seen=seen)
        if end is not None and (seen is not None or waited):
            return self.end(job, *batchresults.by_record(attempt, end), end=end, seen=seen)
        return self._give_up(job, end, seen) if waited else []

    def _close(self, job: Job) -> bool:
        """Whether it had not begun; then it never will, also after a crash of this machine."""
        never_started = batchscript.claim(job.attempt.record)
        if never_started:
            self._closed.append(job.attempt.record)
        return never_started

    def _give_up(self, job: Job, end: End | None, seen: Seen | None) -> list[JobStatus]:
        """The end of a job that has left the scheduler, and whose record does not come."""
        attempt = job.attempt
        if batchscript.started_again(attempt.record):
            return self.end(job, Reason.EVICTED, "the scheduler started it a second time", seen=seen)
        never_started = self._close(job)
        if seen is not None and seen.exit_code is not None and not never_started:
            reason, message = batchresults.by_scheduler(attempt, seen, seen.exit_code)
            return self.end(job, reason, message, seen=seen)
        if seen is None:
            message = f"the scheduler does not know it{'' if never_started else ' any more'}"
        else:
            where = f" on {seen.host}" if seen.host else ""
            message = f"{seen.native_state}{where}: {seen.message or f'exit code {seen.exit_code}'}"
            if never_started:
                message += f"; it did not begin, so is {attempt.record} seen there?"
        return self.end(job, Reason.LOST, f"it left no record; {message}", seen=seen)
