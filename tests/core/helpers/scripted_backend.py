"""A backend whose jobs run in this process, at the word of a test; they outlive every driver in it.

A command is one of `write FILE TEXT`, `append FILE TEXT`, `join FILE FILE...`, `delete FILE`,
`exit CODE` and `reason REASON`, or else a program that is started. Paths are relative to the workspace.
"""

from __future__ import annotations

import random
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from drawbar.backend import API, Accepted, Backend, BackendFeature, JobStatus
from drawbar.model import JobResult, JobState, Reason, judge


@dataclass
class Job:
    attempt: object
    status: JobStatus
    process: subprocess.Popen | None = None
    cancelled: bool = False

    @property
    def identity(self) -> str:
        return self.attempt.spec.identity


@dataclass
class World:
    """Where jobs are. `held` are identities whose jobs wait for `release`; `shuffle` draws who is next."""

    held: set[str] = field(default_factory=set)
    shuffle: random.Random | None = None
    ledger: list[str] = field(default_factory=list)
    """Identities in the order in which their commands were run."""
    tags: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    sinks: list = field(default_factory=list)
    pending: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._work, name="world", daemon=True)
        self.thread.start()

    def backend(self) -> type[Backend]:
        return type("Scripted", (ScriptedBackend,), {"world": self})

    def hold(self, *identities: str) -> None:
        with self.changed:
            self.held.update(identities)

    def release(self, *identities: str) -> None:
        """Let jobs run; all of them when none are named."""
        with self.changed:
            self.held.difference_update(identities or tuple(self.held))
            self.changed.notify_all()

    def wait_for(self, identity: str, state: JobState = JobState.RUNNING) -> None:
        """Wait until a job has come to a state."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: any(
                    each.identity == identity and each.status.state is state for each in self.jobs.values()
                ),
                30,
            ), f"{identity} is not {state}: {self.jobs}"

    def close(self) -> None:
        with self.changed:
            self.closed = True
            for job in self.jobs.values():
                if job.process is not None:
                    job.process.kill()
            self.changed.notify_all()
        self.thread.join()

    def add(self, attempts) -> None:
        with self.changed:
            for attempt in attempts:
                if attempt.tag in self.jobs:
                    continue
                self.tags.append(attempt.tag)
                job = Job(attempt, JobStatus(tag=attempt.tag, state=JobState.RUNNING))
                self.jobs[attempt.tag] = job
                self.pending.append(job)
            self.changed.notify_all()

    def cancel(self, attempts) -> None:
        with self.changed:
            for attempt in attempts:
                job = self.jobs.get(attempt.tag)
                if job is None or job.status.state.terminal:
                    continue
                self.cancelled.append(job.identity)
                job.cancelled = True
                if job.process is not None:
                    job.process.kill()
                elif job in self.pending:
                    self.pending.remove(job)
                    self._end(job, JobResult(reason=Reason.CANCELLED))

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self._ready())
                if self.closed:
                    return
                ready = self._ready()
                job = self.shuffle.choice(ready) if self.shuffle else ready[0]
                self.pending.remove(job)
                self.ledger.append(job.identity)
            result = self._run(job)
            with self.changed:
                self._end(job, result)

    def _ready(self) -> list[Job]:
        return [job for job in self.pending if job.identity not in self.held]

    def _run(self, job: Job) -> JobResult:
        spec = job.attempt.spec
        place = Path(spec.directory)
        command, *rest = spec.argv
        record = Path(job.attempt.record)
        record.mkdir(parents=True, exist_ok=True)
        code = 0
        match command:
            case "write":
                (place / rest[0]).write_text(rest[1])
            case "append":
                with (place / rest[0]).open("a") as file:
                    file.write(rest[1])
            case "join":
                (place / rest[0]).write_text("".join((place / name).read_text() for name in rest[1:]))
            case "delete":
                (place / rest[0]).unlink()
            case "exit":
                code = int(rest[0])
            case "reason":
                return JobResult(reason=Reason(rest[0]))
            case _:
                with (record / "stdout.log").open("w") as log:
                    job.process = subprocess.Popen(spec.argv, cwd=place, stdout=log, stderr=log)
                    code = job.process.wait()
                    job.process = None
        if job.cancelled:
            return JobResult(reason=Reason.CANCELLED)
        return JobResult(exit_code=code, reason=judge(spec, code))

    def _end(self, job: Job, result: JobResult) -> None:
        job.status = JobStatus(tag=job.attempt.tag, state=result.state, result=result)
        for sink in self.sinks:
            sink.status([job.status])
        self.changed.notify_all()


class ScriptedBackend(Backend):
    name = "inline"
    api = API
    features = frozenset({BackendFeature.SURVIVES_DRIVER})
    grace_s = 0.0
    world: World

    def start(self, events):
        self.events = events
        with self.world.changed:
            self.world.sinks.append(events)

    def submit(self, attempts):
        self.world.add(attempts)
        return [Accepted(native_id=attempt.tag) for attempt in attempts]

    def find(self, attempts):
        with self.world.changed:
            jobs = self.world.jobs
            return {each.tag: jobs[each.tag].status for each in attempts if each.tag in jobs}

    def cancel(self, attempts):
        self.world.cancel(attempts)

    def close(self):
        with self.world.changed:
            self.world.sinks.remove(self.events)
