"""A backend that runs jobs as processes of this machine, at a low priority.

What is known of a job is in its record directory, so that another drawbar finds it there:

    lock        held by every process of the job; a free lock proves that the job is over
    pid         the process group of the job
    code        the exit code, written by the job's own script when the command has ended
    cancelled   somebody asked for the job to be stopped
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drawbar import hookimpl
from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    Capacity,
    EventSink,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.model import JobResult, JobState, Reason, judge
from drawbar.options import Options, option

SCRIPT = """
niceness=$1 record=$2; shift 2
nice -n "$niceness" "$@"
echo $? > "$record/code.new" && mv "$record/code.new" "$record/code"
"""
"""Constant: what a job brings comes as arguments, and no shell reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NiceOptions(Options):
    """What `[backends.nice]` in drawbar.toml may say."""

    niceness: int = option(10, help="how far jobs give way to other processes, 0 to 19")
    look_s: float = option(0.1, help="seconds between two looks at the jobs")


class NiceBackend(Backend):
    """Jobs are processes with a raised niceness."""

    name = "nice"
    api = 1
    features = frozenset({BackendFeature.THIS_HOST, BackendFeature.SURVIVES_DRIVER})
    Options = NiceOptions

    def __init__(self, options: NiceOptions) -> None:
        super().__init__(options)
        self._niceness, self._look_s = options.niceness, options.look_s
        self._alive: dict[str, Attempt] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def capacity(self) -> Capacity:
        return Capacity(cpus=os.cpu_count())

    def start(self, events: EventSink) -> None:
        self._events = events
        self._watcher = threading.Thread(target=self._watch, name="nice", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        self._closed.set()
        self._watcher.join()
        for child in self._children.values():
            child.returncode = child.returncode or 0  # it goes on without us; this keeps subprocess quiet

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        return [self._submit(attempt) for attempt in attempts]

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        found = {attempt.tag: status for attempt in attempts if (status := look(attempt))}
        with self._lock:
            self._alive |= {
                each.tag: each for each in attempts if each.tag in found and is_alive(found[each.tag])
            }
        return found

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            status = look(attempt)
            if status and is_alive(status):
                record = Path(attempt.record)
                (record / "cancelled").touch()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int((record / "pid").read_text()), signal.SIGKILL)

    def _submit(self, attempt: Attempt) -> Submission:
        spec, record = attempt.spec, Path(attempt.record)
        try:
            record.mkdir()
        except FileExistsError:  # known already: nothing is started, and its events come
            with self._lock:
                self._alive[attempt.tag] = attempt
            return Accepted()
        with contextlib.ExitStack() as files:
            lock = files.enter_context((record / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                child = subprocess.Popen(
                    ["/bin/sh", "-c", SCRIPT, "sh", str(self._niceness), attempt.record, *spec.argv],
                    cwd=spec.directory,
                    env={"PATH": os.environ.get("PATH", os.defpath), **spec.environment},
                    stdin=files.enter_context(Path(spec.stdin or os.devnull).open("rb")),
                    stdout=files.enter_context(Path(spec.stdout or record / "stdout").open("wb")),
                    stderr=files.enter_context(Path(spec.stderr or record / "stderr").open("wb")),
                    pass_fds=[lock.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                return Refused(message=f"cannot start: {error}")
            (record / "pid").write_text(str(child.pid))
        with self._lock:
            self._alive[attempt.tag] = attempt
            self._children[attempt.tag] = child
        return Accepted(native_id=str(child.pid))

    def _watch(self) -> None:
        """One look at all jobs, again and again; a cluster would be asked once for all of them."""
        while not self._closed.wait(self._look_s):
            with self._lock:
                alive = list(self._alive.values())
            ended = [status for attempt in alive if (status := look(attempt)) and not is_alive(status)]
            with self._lock:
                for status in ended:
                    del self._alive[status.tag]
                    if child := self._children.pop(status.tag, None):
                        child.wait()
            if ended:
                self._events.status(ended)


def is_alive(status: JobStatus) -> bool:
    return not status.state.terminal


def look(attempt: Attempt) -> JobStatus | None:
    """What the record of an attempt tells; None when it was never submitted."""
    record = Path(attempt.record)
    try:
        with (record / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return JobStatus(tag=attempt.tag, state=JobState.RUNNING)
    spec = attempt.spec
    code = int((record / "code").read_text()) if (record / "code").exists() else None
    if code is not None:
        reason = judge(spec, code)
    else:
        reason = Reason.CANCELLED if (record / "cancelled").exists() else Reason.LOST
    result = JobResult(
        exit_code=code,
        reason=reason,
        stdout=spec.stdout or str(record / "stdout"),
        stderr=spec.stderr or str(record / "stderr"),
    )
    return JobStatus(tag=attempt.tag, state=result.state, result=result)


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    return [NiceBackend]
