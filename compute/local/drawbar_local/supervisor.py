"""The supervisor: a small process that is the parent of jobs and outlives the driver that asked for them.

The driver that started it speaks to it over an inherited socket; a later driver that adopts its jobs
connects to its Unix socket. Both speak JSON, one message a line:

    to it     ["submit", turn, [[tag, record, argv, directory, environment, stdin, stdout, stderr,
                                 walltime_s, memory_limit_mib], ...]]
              ["watch", [tag, ...]]
              ["cancel", [tag, ...]]
    from it   ["started", tag, pid, time]     answers to submit, one per job
              ["exists", tag]                 ... claimed before, or closed
              ["refused", tag, message]       ... no record can be made, or no process
              ["watched", [tag, ...]]         answer to watch: those that are alive
              ["ended", tag, end]             `end` as in the record: exit, signal, reason, message,
                                              pid, host, started, finished, cpu_s, peak_memory_mib

A job has ended when its first process has, nothing is left in its process group, and nobody holds its
lock; what is left behind is killed. The supervisor ends when it has neither jobs nor drivers.

Standard library only, and little of it: it starts in about 20 ms of CPU and stays small.
"""

# Importing pathlib and contextlib would cost more than all the rest.
# ruff: noqa: PTH108, SIM105

from __future__ import annotations

import heapq
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque

from drawbar_local import processes, records
from drawbar_local.drivers import Driver
from drawbar_local.launch import Busy, CannotStart, Launcher
from drawbar_local.watch import watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

STARTS_PER_TURN = 4
"""How many processes are started between two looks at everything else."""
SAMPLE_S = 0.1
"""How often memory is looked at, where a job has a limit."""
SAMPLE_SHARE = 0.05
"""How much of a CPU may go into looking at memory."""
LINGER_S = 0.02
"""How often is looked whether the rest of a job has gone."""
GIVE_UP_S = 60.0
"""How long processes that cannot be killed delay the end of their job."""


class Job:
    """An attempt that this supervisor has been asked to start."""

    __slots__ = (
        "argv",
        "directory",
        "drivers",
        "end",
        "ended",
        "environment",
        "group_left",
        "kill_at",
        "lock",
        "memory_limit",
        "message",
        "pid",
        "reason",
        "record",
        "started",
        "stderr",
        "stdin",
        "stdout",
        "tag",
        "turn",
        "walltime_s",
    )

    def __init__(self, driver: Driver, turn: int, fields: Sequence[Any]) -> None:
        (self.tag, self.record, self.argv, self.directory, self.environment) = fields[:5]
        (self.stdin, self.stdout, self.stderr, self.walltime_s, memory_limit_mib) = fields[5:]
        self.memory_limit: int | None = memory_limit_mib and memory_limit_mib << 20
        self.turn = turn
        self.drivers = [driver]
        self.lock: int | None = None
        self.pid: int | None = None
        self.started: float | None = None
        self.reason: str | None = None  # why it is being stopped
        self.message = ""
        self.kill_at: float | None = None
        self.group_left = False
        self.ended = 0.0
        self.end: dict[str, Any] | None = None


class Supervisor:
    """The jobs of one driver, and whoever watches them."""

    def __init__(self, driver: socket.socket, listener: socket.socket, options: dict[str, Any]) -> None:
        self._listener = listener
        self._issuer: str = options["issuer"]
        self._grace_s: float = options["grace_s"]
        self._launcher = Launcher(options["environment"])
        self._watcher = watcher(options["watcher"])
        self._host = os.uname().nodename
        self._claim = records.line(
            "claim",
            {
                "host": self._host,
                "supervisor": os.getpid(),
                "since": processes.since(os.getpid()),
                "socket": options["socket"],
            },
        )
        self._jobs: dict[str, Job] = {}
        self._running: dict[int, Job] = {}
        self._waiting: deque[Job] = deque()
        self._lingering: list[Job] = []
        self._next_linger = 0.0
        self._deadlines: list[tuple[float, int, Job]] = []
        self._deadline_count = 0
        self._limited: dict[int, int] = {}
        self._next_sample = 0.0
        self._busy_until = 0.0
        self._drivers: dict[int, Driver] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._poll.register(self._watcher, select.POLLIN)
        self._add(driver)

    def run(self) -> None:
        """Serve until there is neither a job nor a driver."""
        while self._jobs or self._drivers:
            for descriptor, _ in self._poll.poll(self._timeout_ms()):
                if descriptor in self._drivers:
                    self._hear(self._drivers[descriptor])
                elif descriptor == self._listener.fileno():
                    self._accept()
                else:
                    for pid, status, usage in self._watcher.ended():
                        if job := self._running.pop(pid, None):
                            self._leader_ended(job, status, usage)
            self._start_some()
            now = time.monotonic()
            self._pass_deadlines(now)
            if self._limited and now >= self._next_sample:
                self._look_at_memory(now)
            if self._lingering and now >= self._next_linger:
                self._look_at_lingering(now)
            for driver in [each for each in self._drivers.values() if each.unsent]:
                self._send(driver)

    def _timeout_ms(self) -> float | None:
        times = [when for when, _, _ in self._deadlines[:1]]
        if self._waiting:
            times.append(self._busy_until)
        if self._limited:
            times.append(self._next_sample)
        if self._lingering:
            times.append(self._next_linger)
        return max(0.0, min(times) - time.monotonic()) * 1000 if times else None

    # Drivers

    def _add(self, connection: socket.socket) -> None:
        self._drivers[connection.fileno()] = Driver(connection)
        self._poll.register(connection, select.POLLIN)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if processes.same_user(connection):
            self._add(connection)
        else:
            connection.close()

    def _drop(self, driver: Driver) -> None:
        descriptor = driver.connection.fileno()
        self._poll.unregister(descriptor)
        del self._drivers[descriptor]
        for job in self._jobs.values():
            if driver in job.drivers:
                job.drivers.remove(driver)
        driver.connection.close()

    def _send(self, driver: Driver) -> None:
        if not driver.flush():
            driver.unsent.clear()  # its end is heard when it is read from
        more = select.POLLOUT if driver.unsent else 0
        self._poll.modify(driver.connection, select.POLLIN | more)

    def _hear(self, driver: Driver) -> None:
        try:
            messages = driver.messages()
            for kind, *rest in messages or ():
                if kind == "submit":
                    self._submit(driver, *rest)
                elif kind == "cancel":
                    self._cancel(*rest)
                elif kind == "watch":
                    self._watch(driver, *rest)
        except (ValueError, TypeError):
            messages = None  # not a driver of drawbar; the jobs of the others go on
        if messages is None:
            self._drop(driver)

    def _submit(self, driver: Driver, turn: int, jobs: list[Any]) -> None:
        for fields in jobs:
            job = Job(driver, turn, fields)
            if job.tag in self._jobs:
                driver.tell("exists", job.tag)
            else:
                self._jobs[job.tag] = job
                self._waiting.append(job)

    def _watch(self, driver: Driver, tags: list[str]) -> None:
        jobs = [self._jobs[tag] for tag in tags if tag in self._jobs]
        for job in jobs:
            if driver not in job.drivers:
                job.drivers.append(driver)
        driver.tell("watched", [job.tag for job in jobs])

    def _cancel(self, tags: list[str]) -> None:
        for tag in tags:
            if job := self._jobs.get(tag):
                self._stop(job, "cancelled", "cancelled")

    # The life of a job

    def _start_some(self) -> None:
        if not self._waiting or time.monotonic() < self._busy_until:
            return
        self._launcher.make_room(2 * len(self._running))
        for _ in range(min(STARTS_PER_TURN, len(self._waiting))):
            job = self._waiting.popleft()
            try:
                self._start(job)
            except Busy as error:
                if not self._running:
                    self._refuse(job, f"no process can be started: {error}")
                    continue
                self._waiting.appendleft(job)
                self._busy_until = time.monotonic() + SAMPLE_S
                break
        os.chdir("/")  # keep no directory of a job busy

    def _start(self, job: Job) -> None:
        if job.lock is None:
            try:
                job.lock = records.claim(job.record, self._claim, self._issuer, job.turn)
            except (OSError, ValueError) as error:
                self._refuse(job, f"no record can be made in {job.record!r}: {error}")
                return
            if job.lock is None:
                del self._jobs[job.tag]
                for driver in job.drivers:
                    driver.tell("exists", job.tag)
                return
        job.started = time.time()
        try:
            if job.reason is None:
                job.pid = self._launcher.start(
                    job.argv,
                    directory=job.directory,
                    environment=job.environment,
                    stdin=job.stdin,
                    stdout=job.stdout or f"{job.record}/stdout",
                    stderr=job.stderr or f"{job.record}/stderr",
                    lock=job.lock,
                )
        except CannotStart as error:
            job.message = str(error)
            self._tell_start(job)
            self._end(job, exit_code=error.exit_code)
            return
        self._tell_start(job)
        if job.pid is None:  # stopped before it began
            self._end(job)
            return
        self._running[job.pid] = job
        self._watcher.add(job.pid)
        _append(job.lock, records.line("start", {"pid": job.pid, "time": job.started}))
        if job.walltime_s is not None:
            self._set_deadline(job, time.monotonic() + job.walltime_s)
        if job.memory_limit is not None:
            self._limited[job.pid] = job.memory_limit

    def _tell_start(self, job: Job) -> None:
        for driver in job.drivers:
            driver.tell("started", job.tag, job.pid, job.started)

    def _refuse(self, job: Job, message: str) -> None:
        if job.lock is not None:
            records.withdraw(job.record)
            os.close(job.lock)
        del self._jobs[job.tag]
        for driver in job.drivers:
            driver.tell("refused", job.tag, message)

    def _stop(self, job: Job, reason: str, message: str) -> None:
        """Begin to end a job that has not ended: ask now, insist when the grace is over."""
        if job.reason is not None or job.end is not None:
            return
        job.reason, job.message = reason, message
        if job.pid is None:
            return  # it is not started any more
        job.kill_at = time.monotonic() + self._grace_s
        self._set_deadline(job, job.kill_at)
        processes.signal_group(job.pid, signal.SIGTERM)
        processes.signal_group(job.pid, signal.SIGCONT)

    def _set_deadline(self, job: Job, when: float) -> None:
        self._deadline_count += 1
        heapq.heappush(self._deadlines, (when, self._deadline_count, job))

    def _pass_deadlines(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            job = heapq.heappop(self._deadlines)[2]
            if job.pid is None or job.pid not in self._running:
                continue
            if job.reason is None:
                self._stop(job, "timeout", f"ran longer than its wall time of {job.walltime_s:g} s")
            elif job.kill_at is not None and now >= job.kill_at:
                processes.signal_group(job.pid, signal.SIGKILL)

    def _look_at_memory(self, now: float) -> None:
        for pid, used in processes.group_memory(self._limited).items():
            job = self._running[pid]
            if job.reason is None:
                limit = self._limited[pid] >> 20
                job.reason = "out-of-memory"
                job.message = f"used {used / 2**20:.0f} MiB of memory, its limit is {limit} MiB"
                processes.signal_group(pid, signal.SIGKILL)
        cost = time.monotonic() - now
        self._next_sample = now + max(SAMPLE_S, cost / SAMPLE_SHARE)

    def _leader_ended(self, job: Job, status: int, usage: Any) -> None:
        assert job.pid is not None
        self._limited.pop(job.pid, None)
        # The group's id is free only when nothing is left in it, so this hits the job or nothing.
        gentle = job.kill_at is not None and time.monotonic() < job.kill_at
        job.group_left = processes.signal_group(job.pid, 0 if gentle else signal.SIGKILL)
        code = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        self._end(
            job,
            exit_code=code if code >= 0 else None,
            signal_number=-code if code < 0 else None,
            cpu_s=round(usage.ru_utime + usage.ru_stime, 6),
            peak_memory_mib=round(peak, 3),
        )

    def _end(
        self,
        job: Job,
        *,
        exit_code: int | None = None,
        signal_number: int | None = None,
        cpu_s: float | None = None,
        peak_memory_mib: float | None = None,
    ) -> None:
        assert job.lock is not None
        job.end = {
            "exit": exit_code,
            "signal": signal_number,
            "reason": job.reason,
            "message": job.message,
            "pid": job.pid,
            "host": self._host,
            "started": job.started,
            "finished": time.time(),
            "cpu_s": cpu_s,
            "peak_memory_mib": peak_memory_mib,
        }
        _append(job.lock, records.line("end", job.end))
        os.close(job.lock)
        if job.pid is None or (job.reason is None and not records.held(job.record)):
            self._tell_end(job)
        else:
            self._lingering.append(job)
            job.ended = time.monotonic()
            self._next_linger = 0.0

    def _tell_end(self, job: Job) -> None:
        del self._jobs[job.tag]
        for driver in job.drivers:
            driver.tell("ended", job.tag, job.end)

    def _look_at_lingering(self, now: float) -> None:
        """Tell the ends of those jobs of which nothing is left, and see to the rest of the others."""
        due, ended = [], []
        for job in self._lingering:
            assert job.pid is not None
            gentle = job.kill_at is not None and now < job.kill_at
            job.group_left = job.group_left and processes.signal_group(
                job.pid, 0 if gentle else signal.SIGKILL
            )
            left = records.held(job.record)
            if job.reason is None and not left:
                ended.append(job)
            elif not (gentle and (job.group_left or left)) and now - job.ended >= LINGER_S:
                due.append(job)
        found = processes.kill({job.tag: job.record for job in due}) if due else ()
        for job in due:
            assert job.end is not None
            left = job.tag in found or records.held(job.record)
            if left and time.time() < job.end["finished"] + self._grace_s + GIVE_UP_S:
                continue
            if left:
                job.end["message"] += "; some of its processes could not be ended"
            ended.append(job)
        for job in ended:
            self._lingering.remove(job)
            self._tell_end(job)
        self._next_linger = time.monotonic() + LINGER_S / 10


def _append(descriptor: int, line: bytes) -> None:
    """Write to a record. The driver is told in any case; a later one takes the job for lost."""
    try:
        os.write(descriptor, line)
    except OSError:
        pass


def main() -> None:
    """The process: `options` are its argument, descriptor 2 is the driver's socket, for last words too."""
    options = json.loads(sys.argv[1])
    os.closerange(3, 65536)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir("/")
    path = options["socket"]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        listener.setblocking(False)
        try:
            Supervisor(socket.socket(fileno=os.dup(2)), listener, options).run()
        finally:
            os.unlink(path)
