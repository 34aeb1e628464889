"""The base of backends that hand jobs to a batch system: Slurm, HTCondor, PBS, Grid Engine.

A subclass says how jobs are handed over (`hand_over`), listed (`queue`), looked up when they have left
the queue (`history`) and removed (`stop`); the rest is here. The scheduler is asked once per interval
for all jobs together, and each job tells of its end by itself, through a record in its directory and
a notice that is looked for twice a second, whether the scheduler answers or not. The record is the
truth; the scheduler's word counts for jobs that could not write one.

The directory of an attempt, and with it the run's, must be on a file system that the nodes share with
this machine. What is in it is described in `drawbar.batchscript`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drawbar import batchscript
from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    EventSink,
    InDoubt,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.batchcalls import Budget, Busy, Commands, Pause, Rejected, environment
from drawbar.batchjobs import Jobs
from drawbar.batchresults import Seen
from drawbar.batchscript import Submitted, Surroundings
from drawbar.errors import BackendError, Problem, SettingsError
from drawbar.model import JobSpec, Reason
from drawbar.options import Options as BaseOptions
from drawbar.options import option
from drawbar.runtime import NoImage

BASE_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ")
"""Variables of the driver that the scheduler's commands, and through them jobs, may get."""

LOOK_S = 0.5
"""How long after one look for notices of jobs that ended the next one is taken, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions(BaseOptions):
    """What `drawbar.toml` may say about any batch system."""

    poll_s: float = option(30.0, help="seconds between two questions for all jobs, when nothing happens")
    calls_per_minute: float = option(60.0, help="how often a minute the scheduler may be called")
    call_timeout_s: float = option(60.0, help="seconds after which a call of the scheduler is given up")
    settle_s: float = option(
        30.0, help="seconds that a job may be unknown to the scheduler before it counts as lost"
    )
    grace_s: float = option(10.0, help="seconds between asking a job to end (TERM) and killing it")
    batch_size: int = option(1000, help="the most jobs in one submission (a job array, a cluster)")
    modules: tuple[str, ...] = option((), help="environment modules that every job loads")
    prolog: tuple[str, ...] = option((), help="lines of bash that every job runs before its command")
    environment: tuple[str, ...] = option((), help="more variables that jobs get from drawbar's environment")
    bin_directory: str | None = option(None, help="where the scheduler's commands are, if not on PATH")
    check_directory: str | None = option(
        None, help="a directory that the nodes see, for `drawbar backends check`; drawbar's home"
    )
    check_s: float = option(60.0, help="seconds that the job of `drawbar backends check` may take")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Jobs that go to the scheduler in one submission: they differ in nothing that it is told.

    An `array` numbers its jobs from 1; without it there is one. `name` is the tag of the first, and
    the job's name at the scheduler. `script` runs the job with the number that `index_variable` of
    the backend holds; `directory` is the batch's own.
    """

    name: str
    directives: tuple[str, ...]
    attempts: tuple[Attempt, ...]
    array: bool
    directory: str

    @property
    def script(self) -> str:
        """The file that the scheduler is to run, once for each job."""
        return f"{self.directory}/launcher"


class BatchBackend(Backend):
    """See the module. Subclasses set `index_variable` and `own_group` besides what every backend sets."""

    features: ClassVar[frozenset[BackendFeature]] = frozenset(
        {BackendFeature.WALLTIME, BackendFeature.SURVIVES_DRIVER, BackendFeature.RUNTIME}
    )
    Options: ClassVar[type[BaseOptions]] = BatchOptions
    deadline_s: ClassVar[float] = 300.0
    grace_s: ClassVar[float] = 0.0  # what `find` does not see is closed by it, and cannot turn up
    index_variable: ClassVar[str] = ""
    """The variable in which a job of an array finds its number; empty when there are no arrays."""
    own_group: ClassVar[str] = ""
    """A shell pattern for the control groups that the batch system makes for a single job."""

    options: BatchOptions
    _events: EventSink

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self.budget = Budget(per_minute=self.options.calls_per_minute)
        self._pause = Pause()
        self._jobs = Jobs(self, settle_s=self.options.settle_s, poll_s=self.options.poll_s, tell=self._tell)
        self._lock = threading.Lock()  # guards what follows
        self._submitting: set[str] = set()
        self._parked: deque[Batch] = deque()
        self._troubles = {"records": "", "scheduler": ""}
        self._watchers: list[threading.Thread] = []

    # what a subclass gives

    def directives(self, spec: JobSpec) -> tuple[str, ...]:
        """What the scheduler is told about a job; ValueError when that cannot be said. Pure."""
        return ()

    @abstractmethod
    def hand_over(self, batch: Batch) -> str:
        """Submit a batch, in one call, under its name; the scheduler's own id for it.

        Raises `Rejected` when it was not taken and never will be, `Busy` when it was not taken now,
        and any other error when it may or may not have been taken.
        """

    @abstractmethod
    def queue(self) -> Iterable[Seen]:
        """Every job of this user that the scheduler has, in one call. Raises when that is not known."""

    def history(self, names: Collection[str]) -> Iterable[Seen]:
        """What is known of batches whose jobs have left the queue, in one call; may be nothing."""
        return ()

    @abstractmethod
    def stop(self, native_ids: Sequence[str]) -> None:
        """Remove jobs, in few calls; those that are gone already are no error."""

    def launcher(self, attempts: Sequence[Attempt]) -> str:
        """The script of a batch, which runs the one of the job whose number it finds."""
        return batchscript.launcher([attempt.record for attempt in attempts], self.index_variable)

    def collect(self, attempt: Attempt, place: Submitted) -> None:
        """Fetch what a job that has left the scheduler left where it ran. Nothing where files are shared."""

    def withdraw(self, place: Submitted) -> None:
        """A job that did not tell of its end is given up: a late copy must not start.

        Where files are shared, its claim sees to that. Raises OSError when that cannot be done.
        """

    def job_id(self, batch_id: str, index: int) -> str:
        """The scheduler's id of one job of a batch; `index` counts from 1, and is 0 in a batch of one."""
        return f"{batch_id}_{index}" if index else batch_id

    def largest_batch(self) -> int:
        """The most jobs in one submission. Does not raise, whatever the scheduler answers."""
        return self.options.batch_size if self.index_variable else 1

    def check_client(self) -> Sequence[Problem]:
        """Whether the scheduler can be reached and used; the first part of `check`."""
        return ()

    # the contract

    def check(self) -> Sequence[Problem]:
        """Asks the scheduler, then runs a small job that reads and writes a file."""
        from drawbar.batchcheck import round_trip

        return list(self.check_client()) or round_trip(self)

    def hints(self, spec: JobSpec) -> BaseOptions:
        """What the step said to this backend; ValueError when it cannot be understood."""
        values = next(iter(spec.hints.values()), {})  # a job has hints for the backend it is placed on
        try:
            return self.Hints.parse(values, where=f"step {spec.step}")
        except SettingsError as error:
            raise ValueError(str(error)) from error

    def refuses(self, spec: JobSpec) -> str | None:
        """What the scheduler cannot be told, and containers and mounts that need one."""
        if "=" in spec.argv[0]:
            return f"the command {spec.argv[0]!r} has a '=' in its name"
        if self.runtime is not None and spec.image is not None:
            if why := self.runtime.refusal(spec.image, here=False):
                return why
        else:
            for mount in spec.mounts:
                if mount.source != mount.target:
                    return f"needs {mount.source} at {mount.target}, which takes a container"
        try:
            self.directives(spec)
        except ValueError as error:
            return str(error)
        return None

    def start(self, events: EventSink) -> None:
        """Begin to watch; nothing is asked while there is no job."""
        self._events = events
        for watch in (self._watch_records, self._watch_scheduler):
            thread = threading.Thread(target=watch, name=f"drawbar-{self.name}{watch.__name__}", daemon=True)
            self._watchers.append(thread)
            thread.start()

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        """Accepted also when the scheduler is too busy to take a job now: it is handed over later."""
        answers: dict[str, Submission] = {}
        groups: dict[tuple[str, ...], list[Attempt]] = {}
        for attempt in attempts:
            if status := self._jobs.status(attempt.tag):
                answers[attempt.tag] = Accepted(native_id=status.native_id)
                continue
            try:
                self._surroundings.command(attempt)
                groups.setdefault(self.directives(attempt.spec), []).append(attempt)
            except NoImage as error:
                answers[attempt.tag] = Refused(message=str(error), reason=Reason.IMAGE)
            except ValueError as error:
                answers[attempt.tag] = Refused(message=str(error))
        tags = {attempt.tag for group in groups.values() for attempt in group}
        with self._lock:
            self._submitting |= tags
        known: list[Attempt] = []
        try:
            for directives, group in groups.items():
                size = self.largest_batch() if len(group) > 1 else 1
                for first in range(0, len(group), size):
                    with _using_records():
                        batch, before = self._write(directives, group[first : first + size])
                    known += before
                    if batch is not None:
                        answers |= self._hand_over(batch)
        finally:
            with self._lock:
                self._submitting -= tags
        return [*map((answers | self._known(known)).__getitem__, (attempt.tag for attempt in attempts))]

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        """Records first; for the rest the scheduler is asked, once. What was never submitted is closed."""
        with self._lock:
            if under_way := [each.spec.name for each in attempts if each.tag in self._submitting]:
                raise BackendError(f"{under_way[0]} is still being submitted", transient=True)
        answer: dict[str, JobStatus] = {}
        left, closed = [], []
        with _using_records():
            for attempt in attempts:
                status = self._jobs.status(attempt.tag)
                if status is None or not status.state.terminal:
                    status = self._jobs.by_record(attempt)
                if status is not None:
                    answer[attempt.tag] = status
                elif place := batchscript.read_submission(attempt.record):
                    self._jobs.add(attempt, place, handed_over=True)
                    left.append(attempt)
                elif Path(attempt.record).parent.exists():
                    batchscript.claim(attempt.record)
                    closed.append(attempt.record)
            batchscript.flush(closed)
        if left:
            self._jobs.ask()
        answer |= {each.tag: status for each in left if (status := self._jobs.status(each.tag))}
        return answer

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """Jobs are removed at the scheduler, which asks them to end and kills them after its own grace."""
        unknown = [
            each for each in attempts if not self._jobs.status(each.tag) and Path(each.record).exists()
        ]
        if unknown:
            self.find(unknown)
        with _using_records():
            self._jobs.cancel([job for each in attempts if (job := self._jobs.get(each.tag))])

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Records and logs stay: they are the run's."""
        self._jobs.forget(attempt.tag for attempt in attempts)

    def close(self) -> None:
        """Jobs go on; those that were not handed over yet are found by their records, and repeated."""
        self.budget.closing.set()
        for watcher in self._watchers:
            watcher.join()

    # submitting

    def _write(
        self, directives: tuple[str, ...], attempts: Sequence[Attempt]
    ) -> tuple[Batch | None, list[Attempt]]:
        """Write down everything that jobs need; also the attempts that were written down before."""
        fresh: list[Attempt] = []
        before: list[Attempt] = []
        for attempt in attempts:
            known = batchscript.read_submission(attempt.record) is not None
            (before if known else fresh).append(attempt)
        if not fresh:
            return None, before
        first, array = fresh[0], len(fresh) > 1
        directory = f"{first.record}/batch"
        batch = Batch(
            name=first.tag, directives=directives, attempts=tuple(fresh), array=array, directory=directory
        )
        places = [
            Submitted(batch=batch.name, index=number if array else 0, directory=directory)
            for number in range(1, len(fresh) + 1)
        ]
        for attempt, place in zip(fresh, places, strict=True):
            batchscript.write_submission(attempt.record, place)
        Path(places[0].notices).mkdir(parents=True)
        for attempt, place in zip(fresh, places, strict=True):
            text = batchscript.script(attempt, place, self._surroundings)
            batchscript.write_text(f"{attempt.record}/job", text)
        batchscript.write_text(batch.script, self.launcher(fresh), durably=True)
        Path(batch.script).chmod(Path(batch.script).stat().st_mode | 0o111)
        for attempt, place in zip(fresh, places, strict=True):
            self._jobs.add(attempt, place)
        return batch, before

    @property
    def _surroundings(self) -> Surroundings:
        return Surroundings(
            prolog=self.options.prolog,
            modules=self.options.modules,
            grace_s=self.options.grace_s,
            own_group=self.own_group,
            runtime=self.runtime,
        )

    def _known(self, attempts: Sequence[Attempt]) -> dict[str, Submission]:
        """Answers for attempts that were written down by another object, before this one."""
        if not attempts:
            return {}
        found = self.find(attempts)
        self._tell([status for status in found.values() if status.state.terminal])
        doubt = InDoubt(message="it was submitted before, and nothing is known of it")
        return {
            each.tag: Accepted(native_id=found[each.tag].native_id) if each.tag in found else doubt
            for each in attempts
        }

    def _hand_over(self, batch: Batch) -> dict[str, Submission]:
        """Hand a batch over, or have it wait behind those that the scheduler could not take."""
        if not self._parked and self._pause.over:
            try:
                return self._try(batch)
            except Busy as error:
                self._troubled(error)
        self._parked.append(batch)
        self._jobs.wait(batch.attempts, self._troubles["scheduler"])
        return {attempt.tag: Accepted() for attempt in batch.attempts}

    def _try(self, batch: Batch, *, waited: bool = False) -> dict[str, Submission]:
        """Answers for the jobs of a batch. `Busy` when it cannot be taken now.

        Jobs that `waited` were accepted before: if they are refused now, that is their end.
        """
        answer: Submission
        batch_id = ""
        try:
            batch_id = self.hand_over(batch)
            answer = Accepted()
            self._pause.end()
        except Busy:
            raise
        except Rejected as error:
            answer = Refused(message=str(error))
        except Exception as error:
            answer = InDoubt(message=str(error))
            self._troubled(error)  # so that the next batches wait, and do not come into doubt as well
        answers: dict[str, Submission] = {}
        for number, attempt in enumerate(batch.attempts, 1):
            job = self._jobs.get(attempt.tag)  # none if it ended already, or was cancelled while it waited
            if isinstance(answer, Refused):
                with contextlib.suppress(OSError):
                    batchscript.withdraw(attempt.record)
                if job is not None and waited:
                    self._tell(self._jobs.end(job, answer.reason, answer.message))
                elif job is not None:
                    self._jobs.remove(job)
            elif batch_id:
                answer = Accepted(native_id=self.job_id(batch_id, number if batch.array else 0))
                if job is not None:
                    self._jobs.handed_over(job, answer.native_id)
            elif job is not None:
                self._jobs.handed_over(job)
            answers[attempt.tag] = answer
        return answers

    # watching

    def _watch_records(self) -> None:
        """Apart from the scheduler: it may take a minute to answer, and ends are known all the same."""
        while not self.budget.closing.wait(LOOK_S):
            try:
                self._jobs.look()
                self._trouble("records", "")
            except Exception as error:  # whatever it is, other jobs are still to be watched
                self._trouble("records", f"the records of jobs cannot be used: {error}")

    def _watch_scheduler(self) -> None:
        while not self.budget.closing.wait(LOOK_S):
            try:
                if self._pause.over:
                    asked = self._jobs.due or bool(self._parked and self._troubles["scheduler"])
                    if asked:
                        self._jobs.ask()
                        self._pause.end()
                    self._unpark()
                    if asked and self._pause.over:  # and what it took did not come into doubt
                        self._trouble("scheduler", "")
            except Exception as error:  # as above
                if not self.budget.closing.is_set():
                    self._troubled(error)
                    for batch in tuple(self._parked):
                        self._jobs.wait(batch.attempts, str(error))

    def _unpark(self) -> None:
        """Hand over what had to wait, in order; `Busy` when the scheduler is that again."""
        while self._parked and self._pause.over and not self.budget.closing.is_set():
            batch = self._parked[0]
            if any(self._jobs.get(attempt.tag) for attempt in batch.attempts):
                self._try(batch, waited=True)
            self._parked.popleft()

    def _tell(self, statuses: Sequence[JobStatus]) -> None:
        if statuses:
            self._events.status(statuses)

    def _troubled(self, error: Exception) -> None:
        self._pause.longer()
        self._trouble("scheduler", str(error))

    def _trouble(self, what: str, message: str) -> None:
        with self._lock:
            if self._troubles[what] == message:
                return
            self._troubles[what] = message
            text = "; ".join(filter(None, self._troubles.values()))
        self._events.trouble(text)


class CommandLineBackend(BatchBackend):
    """A batch system that is spoken to through its commands."""

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        path = os.environ.get("PATH", os.defpath)
        if self.options.bin_directory:
            path = f"{self.options.bin_directory}{os.pathsep}{path}"
        self.commands = Commands(
            budget=self.budget,
            timeout_s=self.options.call_timeout_s,
            environment=environment(
                (*BASE_ENVIRONMENT, *self.client_variables, *self.options.environment),
                {"PATH": path, **self.client_environment},
            ),
        )

    client_variables: ClassVar[tuple[str, ...]] = ()
    """More variables of drawbar's environment that the scheduler's commands need."""
    client_environment: ClassVar[Mapping[str, str]] = {}
    """Variables that they get with these values."""


@contextlib.contextmanager
def _using_records() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendError(f"the records of jobs cannot be used: {error}", transient=True) from error
