"""The docker backend: hands jobs to a container engine and tells how they ended.

A job: queued (its image is fetched) ─▶ launching (its container is made and started) ─▶ running ─▶
ended: what the engine knows of it is recorded in the attempt's directory, and its container removed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from drawbar import mounts
from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    Capacity,
    EventSink,
    FoundImage,
    InDoubt,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.errors import BackendError, Problem
from drawbar.model import JobResult, JobSpec, JobState, Reason
from drawbar.options import Options as BaseOptions

from drawbar_docker import containers, forgotten, records, results
from drawbar_docker.engine import REMEDY, Engine, EngineError
from drawbar_docker.images import Image, ImageError, Images, reference_of
from drawbar_docker.jobs import Job, Phase
from drawbar_docker.options import DockerOptions
from drawbar_docker.timers import Timers
from drawbar_docker.watch import Watcher

_LAUNCHERS = 8
_HARVESTERS = 4
_AGAIN_S = 5.0


class DockerBackend(Backend):
    """Runs each job in a container of an engine that speaks the Docker API, on this machine.

    Containers are named after the attempt's tag, so that a repeated submit is one container; they
    outlive the driver and, where the engine lets them, the engine's own restart.
    """

    name: ClassVar[str] = "docker"
    api: ClassVar[int] = 1
    features: ClassVar[frozenset[BackendFeature]] = frozenset(
        {
            BackendFeature.CONTAINERS,
            BackendFeature.MEMORY_LIMIT,
            BackendFeature.WALLTIME,
            BackendFeature.GPUS,
            BackendFeature.NO_NETWORK,
            BackendFeature.SURVIVES_DRIVER,
        }
    )
    Options: ClassVar[type[BaseOptions]] = DockerOptions
    grace_s: ClassVar[float] = 10.0

    options: DockerOptions
    _events: EventSink
    _timers: Timers

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self._engine = Engine(self.options.host)
        self._images = Images(self._engine, self.options.pull)
        self._launchers = ThreadPoolExecutor(_LAUNCHERS, "drawbar-docker-launch")
        self._harvesters = ThreadPoolExecutor(_HARVESTERS, "drawbar-docker-harvest")
        self._lock = threading.RLock()  # guards changes of what follows, and keeps what is told in order
        self._jobs: dict[str, Job] = {}
        self._told: set[str] = set()
        self._closing = threading.Event()
        self._watcher: Watcher | None = None

    def check(self) -> Sequence[Problem]:
        """Whether an engine answers."""
        try:
            self._engine.facts(again=True)
        except BackendError as error:
            return [Problem(message=f"docker backend: {error}", hint=REMEDY)]
        return []

    def capacity(self) -> Capacity:
        """What the engine's machine has; unknown while none answers."""
        try:
            facts = self._engine.facts()
        except BackendError:
            return Capacity()
        return Capacity(cpus=facts.cpus, memory_mib=facts.memory_mib or None)

    def refuses(self, spec: JobSpec) -> str | None:
        """A job without an image, or one that is too large for the engine's machine."""
        if problem := containers.cannot_run(spec):
            return problem
        try:
            reference_of(spec.image or "")
            facts = self._engine.facts()
        except ImageError as error:
            return str(error)
        except BackendError:
            return None  # told by `check` and `start`
        return facts.lacks(spec.resources)

    def find_image(self, image: str) -> FoundImage | None:
        """Whether the engine has an image."""
        found = self._images.look(image)
        return FoundImage(here=found is not None, digest=found.digest if found else None)

    def fetch_image(self, image: str, progress: Callable[[str], None]) -> str | None:
        """Have the engine fetch an image, if need be."""
        return self._images.ensure(image, progress).result().digest

    def start(self, events: EventSink) -> None:
        """Begin to watch. Raises `BackendError`, with the remedy, when no engine answers."""
        try:
            self._engine.facts()
        except BackendError as error:
            raise BackendError(f"{error}; {REMEDY}", transient=True) from error
        self._events = events
        self._timers = Timers("drawbar-docker-timers")
        self._watcher = Watcher(
            self._engine,
            ended=lambda tag: self._later(self._harvesters, self._harvest, tag),
            reconcile=self._reconcile,
            trouble=self._events.trouble,
        )

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        """Take a batch; images are fetched and containers made in the background."""
        if self._watcher is None or self._closing.is_set():
            raise BackendError("the docker backend is not started, or closed")
        return [self._take(attempt) for attempt in attempts]

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        """What the attempts' records and the engine's containers say, in one query."""
        answer: dict[str, JobStatus] = {}
        unknown = []
        for attempt in attempts:
            if (job := self._jobs.get(attempt.tag)) is not None:
                answer[attempt.tag] = job.status
            elif result := records.get_result(attempt.record):
                answer[attempt.tag] = results.status(attempt, result)
            else:
                unknown.append(attempt)
        if unknown:
            found = containers.by_tag(self._engine, {attempt.run for attempt in unknown})
            for attempt in unknown:
                if status := self._look(attempt, found.get(attempt.tag)):
                    answer[attempt.tag] = status
        return answer

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """TERM to the container, KILL after the grace."""
        unknown = [each for each in attempts if each.tag not in self._jobs and each.tag not in self._told]
        if unknown := [each for each in unknown if Path(each.record).exists()]:
            self.find(unknown)
        for attempt in attempts:
            if (job := self._jobs.get(attempt.tag)) is not None:
                self._stop(job, Reason.CANCELLED)

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Containers are gone by now; records and logs stay: they are the run's."""
        with self._lock:
            self._told.difference_update(attempt.tag for attempt in attempts)

    def close(self) -> None:
        """Stop watching, when what is being launched and removed is. Containers stay."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._images.close()
        if self._watcher is not None:
            self._watcher.close()
            self._timers.close()
        self._launchers.shutdown(cancel_futures=True)
        self._harvesters.shutdown()
        self._engine.close()

    # Launching

    def _take(self, attempt: Attempt) -> Submission:
        with self._lock:
            if job := self._jobs.get(attempt.tag):
                return Accepted(native_id=results.short(job.container or ""))
            if attempt.tag in self._told:
                return Accepted()
        if problem := containers.cannot_run(attempt.spec) or mounts.refusal(attempt, self.options.shared):
            return Refused(message=problem)
        try:
            mine = records.claim(attempt.record)
        except OSError as error:
            return Refused(message=f"the directory of its records cannot be made: {error}")
        if not mine:
            status = self.find([attempt]).get(attempt.tag)
            if status is None:
                return InDoubt(message="another driver took it, and has not made its container")
            if status.result is not None:
                self._tell_end(attempt, status.result)
            return Accepted(native_id=status.native_id)
        job = Job(attempt)
        with self._lock:
            self._jobs[attempt.tag] = job
        self._queue(job)
        return Accepted()

    def _queue(self, job: Job) -> None:
        """Have a job launched when its image is here."""
        assert job.attempt.spec.image is not None, "jobs without an image are refused"
        image = self._images.ensure(job.attempt.spec.image, lambda text: self._waits(job, text))
        image.add_done_callback(lambda image: self._later(self._launchers, self._launch, job, image))

    def _launch(self, job: Job, image: Future[Image]) -> None:
        attempt = job.attempt
        with self._lock:
            if self._jobs.get(attempt.tag) is not job or self._closing.is_set():
                return
            job.phase = Phase.LAUNCHING
        try:
            container = self._create(job, image.result())
            records.set_container(attempt.record, container)
            with self._lock:
                job.container = container
            if job.stop is None:
                self._engine.start(container)
                self._began(job, time.time())
            else:
                self._end(job, results.failed(attempt, job.stop.reason, ""))
        except ImageError as error:
            self._end(job, results.failed(attempt, Reason.IMAGE, str(error)))
        except EngineError as error:
            if error.not_found and job.container is None and not job.reimaged:
                job.reimaged = True  # somebody removed the image since it was looked for
                job.phase = Phase.QUEUED
                self._images.drop(attempt.spec.image or "")
                self._queue(job)
                return
            message = f"the engine refused it: {error}"
            self._end(job, results.failed(attempt, Reason.REJECTED, message, job.container))
        except (BackendError, OSError) as error:
            self._stall(job, error)
        except Exception as error:
            self._end(job, results.failed(attempt, Reason.REJECTED, f"it cannot be launched: {error!r}"))

    def _create(self, job: Job, image: Image) -> str:
        attempt = job.attempt
        body = containers.configuration(
            attempt,
            image=image,
            facts=self._engine.facts(),
            network=self.options.network,
            limit_cpus=self.options.limit_cpus,
        )
        try:
            return self._engine.create(attempt.tag, body)
        except EngineError as error:
            if not error.conflict:
                raise
            return str(self._engine.inspect(attempt.tag)["Id"])  # made by a call whose answer was lost

    def _began(self, job: Job, started: float) -> None:
        """A container runs, or has run: tell it, and see to its end."""
        with self._lock:
            if self._jobs.get(job.tag) is not job or job.phase is Phase.FORGOTTEN:
                return
            job.phase = Phase.RUNNING
            stop = job.stop
            self._events.status([job.status])
        if stop is not None:
            self._kill(job)
        elif limit := job.attempt.spec.resources.walltime_s:
            tag = job.tag
            self._timers.after(started + limit - time.time(), lambda: self._timeout(tag))

    def _stall(self, job: Job, error: Exception) -> None:
        """It is not known how far a job got: it is looked at soon, or else when the engine answers again."""
        with self._lock:
            job.phase = Phase.STALLED
        self._events.trouble(str(error))
        self._timers.after(_AGAIN_S, lambda: self._later(self._harvesters, self._reconcile))

    # Ending

    def _stop(self, job: Job, reason: Reason) -> None:
        with self._lock:
            first = job.stop is None
            if first:
                job.stop = records.Stop(reason=reason, time=time.time())
            stop, waits = job.stop, job.phase is Phase.QUEUED
        assert stop is not None
        if first:
            with contextlib.suppress(OSError):  # then a later driver takes it for killed
                records.set_stop(job.attempt.record, stop)
        if waits:
            self._end(job, results.failed(job.attempt, stop.reason, ""))
        elif job.phase is Phase.RUNNING:
            self._kill(job)

    def _kill(self, job: Job) -> None:
        tag = job.tag
        self._later(self._harvesters, self._signal, tag, "SIGTERM")
        kill = lambda: self._later(self._harvesters, self._signal, tag, "SIGKILL")  # noqa: E731
        self._timers.after(self.options.grace_s, kill)

    def _timeout(self, tag: str) -> None:
        job = self._jobs.get(tag)
        if job is not None and job.phase is Phase.RUNNING:
            self._later(self._harvesters, self._stop, job, Reason.TIMEOUT)

    def _signal(self, tag: str, signal: str) -> None:
        job = self._jobs.get(tag)
        if job is not None and job.container is not None:
            self._engine.kill(job.container, signal)

    def _harvest(self, tag: str, outage: results.Window | None = None) -> None:
        """Record, tell and remove a container that has ended; one that is alive is left as it is."""
        with self._lock:
            job = self._jobs.get(tag)
            if job is None or job.container is None or job.phase is Phase.FORGOTTEN:
                return
            container, job.looks = job.container, job.looks + 1
            if job.looks > 1:
                return  # who looks at it now looks once more
        looks = 0
        try:
            while job.looks > looks:
                looks = job.looks
                result = results.look(self._engine, job.attempt, container, outage)
                if result is not None:
                    self._end(job, result)
                    return
        except EngineError as error:
            if not error.not_found:
                raise
            self._bury(job, results.REMOVED)
        finally:
            with self._lock:
                job.looks = 0

    def _end(self, job: Job, result: JobResult) -> None:
        """A job has ended: make that durable, tell it, and remove its container."""
        try:
            result = records.set_result(job.attempt.record, result)
        except OSError as error:
            self._events.trouble(f"the end of {job.attempt.spec.name} cannot be recorded: {error}")
            self._timers.after(_AGAIN_S, lambda: self._later(self._harvesters, self._end, job, result))
            return
        self._tell_end(job.attempt, result)
        if job.container is not None:
            self._engine.remove(job.container)

    # Looking

    def _look(self, attempt: Attempt, found: Mapping[str, Any] | None) -> JobStatus | None:
        """The status of an attempt that this object does not know; one that may be alive is adopted."""
        container = found["Id"] if found else records.container(attempt.record)
        if container is None:
            return None
        if found is None or found["State"] in results.ALIVE:
            job = Job(attempt, Phase.LAUNCHING, container)
            job.stop = records.stop(attempt.record)
            with self._lock:
                known = self._jobs.setdefault(attempt.tag, job)
            if known is job:
                self._adopt(job, found["State"] if found else None)
            return known.status
        result = results.look(self._engine, attempt, container)
        if result is None:
            raise BackendError(f"{attempt.spec.name} is changing its state", transient=True)
        result = records.set_result(attempt.record, result)
        self._later(self._harvesters, self._engine.remove, container)
        return results.status(attempt, result)

    def _adopt(self, job: Job, state: str | None) -> None:
        """Go on with a container that somebody else, or a call without an answer, made.

        One that was not started may yet be, by a call that is still under way, and might even end
        before another call starts it a second time. So it is closed, and the attempt is lost. One whose
        job has begun while the engine, asked when it is done with it, calls it created is forgotten, and
        so may have been one that is gone (`state` is None): whoever removed it has not ended the job.
        """
        assert job.container is not None
        if state is None:
            self._bury(job, results.REMOVED)
            return
        if state == "created" and records.close_start(job.attempt.record):
            self._bury(job, results.NOT_STARTED)
            return
        try:
            now = self._engine.inspect(job.container)["State"]
        except BackendError as error:
            self._stall(job, error)
            return
        if now["Status"] == "created":
            self._bury(job, forgotten.ENDED)
            return
        self._began(job, results.when(now.get("StartedAt")) or time.time())
        self._later(self._harvesters, self._harvest, job.tag)  # it may have ended meanwhile

    def _bury(self, job: Job, message: str) -> None:
        """Have a job lost, as soon as it is surely dead; else it ends, and is not repeated."""
        with self._lock:
            if job.phase is Phase.FORGOTTEN:
                return
            job.phase = Phase.FORGOTTEN
        self._later(self._harvesters, self._end_forgotten, job, message)

    def _end_forgotten(self, job: Job, message: str) -> None:
        try:
            result = forgotten.result(self._engine, self._images, job, message)
        except (BackendError, OSError) as error:
            self._stall(job, error)
        else:
            self._end(job, result)

    def _reconcile(self, outage: results.Window | None = None) -> None:
        """Compare what this object believes with what the engine, which may be another by now, has."""
        if outage:
            self._engine.facts(again=True)
        with self._lock:
            jobs = {tag: (job, job.phase) for tag, job in self._jobs.items()}
        found = containers.by_tag(self._engine)
        self._events.trouble("")  # what was not done because of it is done again from here
        for tag, (job, phase) in jobs.items():
            container = found.get(tag)
            ended = container is None or container["State"] not in results.ALIVE
            unstarted = container is not None and container["State"] == "created"
            if phase is Phase.STALLED or (phase is Phase.RUNNING and unstarted):
                self._go_on(job, phase, container)
            elif ended and (phase is Phase.RUNNING or container is not None):
                self._later(self._harvesters, self._harvest, tag, outage)
            elif phase is Phase.RUNNING and job.stop is not None:
                self._kill(job)
        for tag, container in found.items():
            if tag not in jobs and container["State"] not in results.ALIVE:
                self._later(self._harvesters, self._sweep, tag, container)

    def _go_on(self, job: Job, phase: Phase, container: Mapping[str, Any] | None) -> None:
        """A job in this phase whose launch was not answered, or was forgotten: is its container there?"""
        with self._lock:
            if job.phase is not phase:
                return  # somebody else goes on with it
            job.phase = Phase.LAUNCHING
            job.container = container["Id"] if container else job.container
        if container is not None and container["State"] not in results.ALIVE:
            self._later(self._harvesters, self._harvest, job.tag)
        elif job.container is not None:
            self._adopt(job, container["State"] if container else None)
        elif job.stop is not None:
            self._later(self._harvesters, self._end, job, results.failed(job.attempt, job.stop.reason, ""))
        else:
            job.phase = Phase.QUEUED
            self._queue(job)

    def _sweep(self, tag: str, container: Mapping[str, Any]) -> None:
        """Remove what an earlier driver left behind when it had recorded the end, but not more."""
        record = (container.get("Labels") or {}).get(containers.RECORD, "")
        with self._lock:
            ours = tag in self._jobs
        if not ours and record.startswith("/") and records.get_result(record) is not None:
            self._engine.remove(container["Id"])

    # Small things

    def _waits(self, job: Job, text: str) -> None:
        with self._lock:
            if self._jobs.get(job.tag) is job and job.phase is Phase.QUEUED:
                self._events.status(
                    [results.alive(job.tag, JobState.SUBMITTED, "fetching its image", None, text)]
                )

    def _tell_end(self, attempt: Attempt, result: JobResult) -> None:
        with self._lock:
            self._jobs.pop(attempt.tag, None)
            if attempt.tag not in self._told:
                self._told.add(attempt.tag)
                self._events.status([results.status(attempt, result)])

    def _later(self, pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> None:
        def work() -> None:
            try:
                function(*arguments)
            except Exception as error:  # shown, and done again when the engine answers the next time
                if not self._closing.is_set():
                    self._events.trouble(str(error) or repr(error))

        with contextlib.suppress(RuntimeError):  # closed: a later driver does it
            pool.submit(work)
