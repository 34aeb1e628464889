"""The local backend: the driver's side, which hands jobs to supervisors and tells how they ended."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import selectors
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    Capacity,
    EventSink,
    InDoubt,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.errors import BackendError, Problem
from drawbar.model import JobSpec, Reason
from drawbar.options import Options as BaseOptions
from drawbar.runtime import NoImage

from drawbar_local import containers, machine, processes, records, results
from drawbar_local import link as links
from drawbar_local.jobs import Batch, Job, fields
from drawbar_local.link import Link
from drawbar_local.options import BASE_ENVIRONMENT, LocalOptions
from drawbar_local.strays import Strays

_CLAIM_S = 5.0
_REST = "processes that are left of it are being ended"


class LocalBackend(Backend):
    """Runs jobs as processes of this machine, in their images where it has a `runtime`.

    Jobs outlive the driver. `submit` starts at once what it is given: queueing is the dispatcher's.
    The jobs of a supervisor that died are ended, and lost.
    """

    name: ClassVar[str] = "local"
    api: ClassVar[int] = 1
    features: ClassVar[frozenset[BackendFeature]] = frozenset(
        {
            BackendFeature.THIS_HOST,
            BackendFeature.WALLTIME,
            BackendFeature.SURVIVES_DRIVER,
            BackendFeature.RUNTIME,
        }
        | ({BackendFeature.MEMORY_LIMIT} if processes.HAVE_PROC else set())
    )
    Options: ClassVar[type[BaseOptions]] = LocalOptions
    grace_s: ClassVar[float] = 0.0
    """None: `find` closes what nobody claimed, so that it cannot turn up any more."""
    watcher: ClassVar[str] = "auto"
    """How supervisors learn of ends: `pidfd`, `signal`, or what works here."""

    options: LocalOptions
    _events: EventSink

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self._capacity = Capacity(
            cpus=self.options.cpus or machine.cpus(),
            memory_mib=self.options.memory_mib or machine.memory_mib(),
        )
        self._issuer = uuid.uuid4().hex
        self._turn = 0
        self._strays = Strays()
        self._lock = threading.Lock()  # guards what follows
        self._own: Link | None = None
        self._links: dict[str, Link] = {}
        self._unregistered: list[Link] = []
        self._replies: dict[Link, SimpleQueue[list[str] | None]] = {}
        self._jobs: dict[str, Job] = {}
        self._told: set[str] = set()
        self._closing = False
        self._finding = threading.Lock()
        self._wake_read, self._wake_write = -1, -1
        self._reader: threading.Thread | None = None

    def check(self) -> Sequence[Problem]:
        """Whether supervisors can be started and found again."""
        try:
            links.runtime_directory(self.options.runtime_directory, create=False)
        except BackendError as error:
            return [Problem(message=f"local backend: {error}")]
        if not sys.executable:
            return [Problem(message="local backend: Python does not know its own program (sys.executable)")]
        if self.runtime is not None and (missing := self.runtime.missing()):
            return [Problem(message=f"local backend: {missing}")]
        return []

    def capacity(self) -> Capacity:
        """What the settings say, else what the machine has."""
        return self._capacity

    def refuses(self, spec: JobSpec) -> str | None:
        """A job that is too large for the machine, or that needs a directory to be elsewhere."""
        capacity, wanted = self.capacity(), spec.resources
        if wanted.cpus > (capacity.cpus or 0):
            return f"asks for {wanted.cpus:g} CPUs, of which this machine has {capacity.cpus:g} for jobs"
        if (wanted.memory_mib or 0) > (capacity.memory_mib or 0):
            return (
                f"asks for {wanted.memory_mib} MiB of memory, this machine has {capacity.memory_mib} for jobs"
            )
        if wanted.gpus and wanted.gpus > machine.gpus():
            return f"asks for {wanted.gpus} GPUs, of which this machine has {machine.gpus()}"
        if self.runtime is not None and spec.image is not None:
            return self.runtime.missing() or self.runtime.refusal(spec.image, here=True)
        for mount in spec.mounts:
            if mount.source != mount.target:
                return f"needs {mount.source} at {mount.target}, which takes a container"
        return None

    def start(self, events: EventSink) -> None:
        """Begin to watch; the first supervisor is started with the first job."""
        self._events = events
        self._wake_read, self._wake_write = os.pipe()
        self._reader = threading.Thread(target=self._read, name="drawbar-local", daemon=True)
        self._reader.start()

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        """Start a batch. Accepted once the process exists, or was found not to be startable (a result)."""
        fresh: dict[str, Attempt] = {}
        with self._lock:
            for attempt in attempts:
                if attempt.tag not in self._jobs and attempt.tag not in self._told:
                    fresh[attempt.tag] = attempt
        orders: dict[str, list[Any]] = {}
        answers: dict[str, Submission | None] = {}
        for tag, attempt in fresh.items():
            try:
                orders[tag] = fields(attempt, self.runtime)
            except NoImage as error:
                answers[tag] = Refused(message=str(error), reason=Reason.IMAGE)
            except (ValueError, OSError) as error:
                answers[tag] = Refused(message=str(error))
        if orders:
            answers |= self._hand_over({tag: fresh[tag] for tag in orders}, list(orders.values()))
        claimed = [fresh[tag] for tag, answer in answers.items() if answer is None]
        if claimed:
            answers.update(self._known(claimed))
        return [answers.get(attempt.tag) or Accepted() for attempt in attempts]

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        """What records and locks say. An attempt that nobody claimed is closed for good, and left out."""
        answer: dict[str, JobStatus] = {}
        unknown = []
        with self._finding:
            with self._lock:
                under_way = {
                    job.batch for each in attempts if (job := self._jobs.get(each.tag)) and job.batch
                }
            for batch in under_way:
                batch.complete.wait(self.deadline_s / 2)
            with self._lock:
                turn = self._turn
                for attempt in attempts:
                    job = self._jobs.get(attempt.tag)
                    if job and job.batch:
                        raise BackendError(f"{attempt.spec.name} is still being submitted", transient=True)
                    if job:
                        answer[attempt.tag] = results.running(attempt.tag, job.native_id)
                    elif attempt.tag in self._strays:
                        answer[attempt.tag] = results.running(attempt.tag, message=_REST)
                    else:
                        unknown.append(attempt)
            try:
                self._look_up(unknown, turn, answer)
            except OSError as error:
                raise BackendError(
                    f"the records of local jobs cannot be read: {error}", transient=True
                ) from error
        return answer

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """TERM to the job's process group, KILL after the grace."""
        self._stop(attempts)
        with self._lock:
            known = self._jobs.keys() | self._told
        unknown = [
            each
            for each in attempts
            if each.tag not in known and each.tag not in self._strays and Path(each.record).exists()
        ]
        if unknown:
            self.find(unknown)
            self._stop(unknown)

    def _stop(self, attempts: Sequence[Attempt]) -> None:
        by_link: dict[Link, list[str]] = {}
        with self._lock:
            for attempt in attempts:
                if job := self._jobs.get(attempt.tag):
                    by_link.setdefault(job.link, []).append(attempt.tag)
        for link, tags in by_link.items():
            with contextlib.suppress(OSError):  # its supervisor is dead: they are being ended
                link.send("cancel", tags)
        self._strays.stop(attempts)

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Records and logs stay: they are the run's."""
        with self._lock:
            self._told.difference_update(attempt.tag for attempt in attempts)
        for attempt in attempts:
            containers.clear(attempt)

    def close(self) -> None:
        """Leave the jobs to their supervisors; one without jobs ends."""
        if self._reader is None or self._closing:
            return
        self._closing = True
        self._wake()
        self._reader.join()
        ends = (self._wake_read, self._wake_write)
        self._wake_read = self._wake_write = -1
        for descriptor in ends:
            os.close(descriptor)
        links.reap()

    # Submission

    def _hand_over(
        self, attempts: Mapping[str, Attempt], orders: Sequence[Sequence[Any]]
    ) -> dict[str, Submission | None]:
        """The supervisor's answers; None for an attempt that was claimed before."""
        batch = Batch(list(attempts))
        with self._lock:
            if self._closing or self._reader is None:
                raise BackendError("the local backend is not started, or closed")
            try:
                link = self._supervisor()
            except BackendError as error:
                if error.transient:
                    raise
                return {tag: Refused(message=str(error)) for tag in attempts}
            self._turn += 1
            turn = self._turn
            for tag, attempt in attempts.items():
                self._jobs[tag] = Job(attempt, link, batch)
        with contextlib.suppress(OSError):  # the end of the connection answers
            link.send("submit", turn, orders)
        batch.complete.wait(self.deadline_s * 0.9)
        with self._lock:
            for tag in attempts.keys() - batch.answers.keys():
                batch.answers[tag] = InDoubt(message=f"supervisor {link.child} of local jobs does not answer")
                self._jobs.pop(tag, None)
            return dict(batch.answers)

    def _supervisor(self) -> Link:
        """This object's own supervisor; starts one when there is none, or it died."""
        if self._own is None:
            directory = links.runtime_directory(self.options.runtime_directory, create=True)
            self._own = links.start(
                directory,
                {
                    "issuer": self._issuer,
                    "watcher": self.watcher,
                    "grace_s": self.options.grace_s,
                    "environment": self._environment(),
                },
            )
            self._add(self._own)
        return self._own

    def _environment(self) -> dict[str, str]:
        names = (*BASE_ENVIRONMENT, *self.options.environment)
        chosen = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("DRAWBAR_") and any(fnmatch.fnmatchcase(name, each) for each in names)
        }
        outer = os.environ.get(processes.TAG)
        return {**chosen, processes.TAG: outer} if outer else chosen

    def _known(self, attempts: Sequence[Attempt]) -> dict[str, Submission]:
        """Answers for attempts that were claimed before this submit; ends that nobody told are told."""
        found = self.find(attempts)
        ended = [status for status in found.values() if status.state.terminal]
        self._tell(ended)
        doubt = InDoubt(message="its record was closed while it was being submitted")
        return {
            each.tag: Accepted(native_id=found[each.tag].native_id) if each.tag in found else doubt
            for each in attempts
        }

    # Finding

    def _look_up(self, attempts: Sequence[Attempt], turn: int, answer: dict[str, JobStatus]) -> None:
        alive: dict[str, list[Attempt]] = {}
        gone = []
        for attempt in attempts:
            record = self._record(attempt, turn)
            if record is None:
                continue
            if record.held:
                alive.setdefault((record.claim or {}).get("socket", ""), []).append(attempt)
            elif record.end:
                answer[attempt.tag] = results.ended(attempt, record.end)
            else:
                gone.append(attempt)
        for path, group in alive.items():
            watched = self._watch(path, group)
            for attempt in group:
                if attempt.tag in watched:
                    answer[attempt.tag] = results.running(attempt.tag)
                elif (record := records.read(attempt.record)) and record.end and not record.held:
                    answer[attempt.tag] = results.ended(attempt, record.end)
                else:
                    self._add_strays([attempt])
                    answer[attempt.tag] = results.running(attempt.tag, message=_REST)
        if gone:
            left = processes.kill({attempt.tag: attempt.record for attempt in gone})
            self._add_strays([attempt for attempt in gone if attempt.tag in left])
            for attempt in gone:
                answer[attempt.tag] = (
                    results.running(attempt.tag, message=_REST)
                    if attempt.tag in left
                    else results.lost(attempt)
                )

    def _record(self, attempt: Attempt, turn: int) -> records.Record | None:
        """The record of an attempt that was claimed, or None; then it cannot be claimed any more."""
        end = time.monotonic() + _CLAIM_S
        while True:
            record = records.read(attempt.record)
            if record and record.claim:
                return record
            if not (record and record.held) and records.void(attempt.record, self._issuer, turn):
                return None
            if record and time.monotonic() > end:
                return record  # locked by somebody who died between claim and start, but for the job
            time.sleep(0.005)

    def _watch(self, path: str, attempts: Sequence[Attempt]) -> set[str]:
        """Which of these attempts the supervisor at `path` has; it tells their ends from now on."""
        with self._lock:
            link = self._links.get(path)
        if link is None:
            link = links.connect(path) if path else None
            if link is None:
                return set()
            with self._lock:
                self._add(link)
        with self._lock:
            replies = self._replies.setdefault(link, SimpleQueue())
            if link.closed:
                return set()
            for attempt in attempts:
                self._jobs[attempt.tag] = Job(attempt, link)
        try:
            link.send("watch", [attempt.tag for attempt in attempts])
            watched = replies.get(timeout=links.TALK_S)
        except OSError:
            watched = None
        except Empty as error:
            link.shut()
            raise BackendError(f"the supervisor at {path} does not answer", transient=True) from error
        if watched is None:
            return set()  # the end of the connection took care of them
        with self._lock:
            for attempt in attempts:
                if attempt.tag not in watched:
                    self._jobs.pop(attempt.tag, None)
        return set(watched)

    # The reader's thread

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            next_look = 0.0
            while not self._closing:
                with self._lock:
                    for link in self._unregistered:
                        selector.register(link.connection, selectors.EVENT_READ, link)
                    self._unregistered.clear()
                timeout = max(0.0, next_look - time.monotonic()) if self._strays else None
                for key, _ in selector.select(timeout):
                    if key.data is None:
                        os.read(self._wake_read, 4096)
                        next_look = 0.0
                    elif (messages := key.data.receive()) is not None:
                        self._hear(key.data, messages)
                    else:
                        selector.unregister(key.fileobj)
                        self._mourn(key.data)
                        next_look = 0.0
                if self._strays and time.monotonic() >= next_look:
                    self._tell(self._strays.look(self._events.trouble))
                    next_look = time.monotonic() + self._strays.pause_s
        self._release()

    def _hear(self, link: Link, messages: Sequence[Sequence[Any]]) -> None:
        statuses: dict[str, JobStatus] = {}
        with self._lock:
            for kind, what, *rest in messages:
                if kind == "watched":
                    self._replies[link].put(what)
                    continue
                job = self._jobs.get(what)
                if job is None:
                    continue
                if kind == "ended":
                    del self._jobs[what]
                    statuses[what] = results.ended(job.attempt, rest[0])
                elif kind == "started":
                    job.native_id = str(rest[0] or "")
                    statuses[what] = results.running(what, job.native_id)
                    if job.batch:
                        job.batch.answer(what, Accepted(native_id=job.native_id))
                        job.batch = None
                else:
                    del self._jobs[what]
                    if job.batch:
                        job.batch.answer(what, Refused(message=rest[0]) if kind == "refused" else None)
        self._tell(statuses.values())

    def _mourn(self, link: Link) -> None:
        """A supervisor is gone, or cannot be talked to any more: its jobs are strays."""
        with self._lock:
            self._links.pop(link.path, None)
            if self._own is link:
                self._own = None
            jobs = [job for job in self._jobs.values() if job.link is link]
            for job in jobs:
                del self._jobs[job.attempt.tag]
            link.closed = True
            if replies := self._replies.pop(link, None):
                replies.put(None)
        link.close(wait_s=1.0)
        words = f": {link.last_words.strip()}" if link.last_words else ""
        self._add_strays([job.attempt for job in jobs if job.batch is None])
        with self._lock:
            for job in jobs:
                if job.batch:
                    message = f"the supervisor of local jobs died while it was asked{words}"
                    job.batch.answer(job.attempt.tag, InDoubt(message=message))
        if jobs or words:
            self._events.trouble(f"the supervisor of {len(jobs)} local jobs is gone{words}")

    def _release(self) -> None:
        with self._lock:
            busy = {job.link for job in self._jobs.values()}
            for job in self._jobs.values():
                if job.batch:
                    job.batch.answer(job.attempt.tag, InDoubt(message="the local backend was closed"))
            for replies in self._replies.values():
                replies.put(None)
            for link in self._links.values():
                link.close(wait_s=0.0 if link in busy else 2.0)
            self._links.clear()
            self._own = None

    # Small things

    def _add(self, link: Link) -> None:
        self._links[link.path] = link
        self._unregistered.append(link)
        self._wake()

    def _add_strays(self, attempts: Sequence[Attempt]) -> None:
        if attempts:
            self._strays.add(attempts)
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # closed: there is nobody to wake
            os.write(self._wake_write, b".")

    def _tell(self, statuses: Iterable[JobStatus]) -> None:
        """Pass news on; the end of an attempt only once."""
        news = []
        with self._lock:
            for status in statuses:
                if status.state.terminal:
                    if status.tag in self._told:
                        continue
                    self._told.add(status.tag)
                news.append(status)
        if news:
            self._events.status(news)
