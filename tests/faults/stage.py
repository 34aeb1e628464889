"""Drives a run under control: every process of drawbar asks here before and after each write point.

So the campaign knows where each process is, and can strike at an instant: it stops all of them,
copies the store as it is on the disk, notes how long the ledger is, kills the victims, and lets the
others go on.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent

ROLES = ("driver", "engine", "supervisor")


@dataclass(eq=False)
class Process:
    """A process of drawbar that has reported."""

    connection: socket.socket
    pid: int
    role: str = ""
    received: bytes = b""
    waiting: bool = False


@dataclass(frozen=True)
class Instant:
    """What was so at one moment, from the store as it was on disk and from the ledger."""

    ledger_size: int
    state: str
    accepted: frozenset[str]
    collecting: frozenset[str]
    in_flight: frozenset[str]


@dataclass(frozen=True)
class Plan:
    """When to strike, and whom: at the `hit`-th time that a role comes to a point, or after a delay."""

    victims: tuple[str, ...]
    role: str = ""
    point: str = ""
    hit: int = 1
    delay_s: float | None = None


@dataclass
class Strike:
    """A strike that happened: whom it really hit."""

    plan: Plan
    victims: tuple[str, ...]
    instant: Instant
    drive: int = 0
    place: str = ""


@dataclass
class Stage:
    """The socket that processes report to, and those that do. `directory` is short and new."""

    directory: Path
    ledger: Path
    store: Callable[[], Path | None]
    processes: list[Process] = field(default_factory=list)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    plan: Plan | None = None
    strike: Strike | None = None

    def __post_init__(self) -> None:
        self.path = self.directory / "points"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)

    def command(self, role: str, *arguments: str) -> list[str]:
        """How to run a module of drawbar so that it reports here."""
        return [sys.executable, str(HERE / "points.py"), role, str(self.path), *arguments]

    def drive(
        self,
        arguments: Sequence[str],
        *,
        environment: dict[str, str],
        log: Path,
        plan: Plan | None,
        timeout_s: float,
    ) -> int | None:
        """Run drawbar's command line to its end, striking as planned.

        Returns its exit status (negative when it was killed), or None when it had to be ended because
        it did not end.
        """
        self.plan, self.strike = plan, None
        self.seen.clear()
        with log.open("ab") as output:
            child = subprocess.Popen(
                self.command("driver", "-m", "drawbar.cli", *arguments),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
            )
        ended = os.pidfd_open(child.pid)
        self._selector.register(ended, selectors.EVENT_READ)
        began = time.monotonic()
        try:
            while child.poll() is None:
                now = time.monotonic() - began
                if now > timeout_s:
                    self.end_all()
                    child.wait()
                    return None
                wait = timeout_s - now
                if self.plan is not None and self.plan.delay_s is not None:
                    if now >= self.plan.delay_s:
                        self._strike()
                    else:
                        wait = self.plan.delay_s - now
                self._serve(wait)
        finally:
            self._selector.unregister(ended)
            os.close(ended)
            self.plan = None
        return child.returncode

    def instant(self) -> Instant:
        """What is so now; nothing may be writing to the store."""
        size = self.ledger.stat().st_size
        accepted, collecting, in_flight = set(), set(), set()
        state = ""
        store = self.store()
        if store is not None:
            copy = self.directory / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for suffix in ("", "-wal", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{store}{suffix}", copy / f"store{suffix}")
            database = sqlite3.connect(copy / "store")
            with contextlib.closing(database), contextlib.suppress(sqlite3.OperationalError):  # no tables yet
                for (value,) in database.execute("SELECT state FROM run"):
                    state = value
                for name, job, outcome in database.execute("SELECT name, state, outcome FROM attempt"):
                    if outcome == "accepted":
                        accepted.add(name)
                    elif outcome is None and job == "finished":
                        collecting.add(name)
                    elif outcome is None and job in ("queued", "submitted", "running"):
                        in_flight.add(name)
        return Instant(size, state, frozenset(accepted), frozenset(collecting), frozenset(in_flight))

    def wait_for_end(self, timeout_s: float) -> list[str]:
        """Wait until every process has ended by itself; the roles of those that did not, and are ended."""
        until = time.monotonic() + timeout_s
        while self.processes and (left := until - time.monotonic()) > 0:
            self._serve(left)
        left_over = [process.role for process in self.processes]
        self.end_all()
        return left_over

    def end_all(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.end_all()
        for process in self.processes:
            process.connection.close()
        self._listener.close()
        self._selector.close()

    # what processes say

    def _serve(self, wait: float) -> None:
        for key, _ in self._selector.select(wait):
            if key.fileobj is self._listener:
                connection, _ = self._listener.accept()
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                process = Process(connection, struct.unpack("3i", credentials)[0])
                self.processes.append(process)
                self._selector.register(connection, selectors.EVENT_READ, process)
            elif key.data is not None and key.data in self.processes:
                self._hear(key.data)

    def _hear(self, process: Process) -> None:
        try:
            data = process.connection.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._forget(process)
            return
        process.received += data
        while b"\n" in process.received:
            line, _, process.received = process.received.partition(b"\n")
            text = line.decode()
            process.waiting = True
            if not process.role:
                process.role = text
            else:
                self._reached(process, text)
            if process.waiting:
                self._let_go_on(process)

    def _reached(self, process: Process, point: str) -> None:
        self.seen[process.role, point] += 1
        plan = self.plan
        if (
            plan is not None
            and plan.delay_s is None
            and (plan.role, plan.point) == (process.role, point)
            and self.seen[process.role, point] == plan.hit
        ):
            self._strike()

    def _let_go_on(self, process: Process) -> None:
        process.waiting = False
        with contextlib.suppress(OSError):
            process.connection.sendall(b".")

    def _forget(self, process: Process) -> None:
        self._selector.unregister(process.connection)
        process.connection.close()
        self.processes.remove(process)

    # the strike

    def _strike(self) -> None:
        plan, self.plan = self.plan, None
        assert plan is not None
        victims = [process for process in self.processes if process.role in plan.victims]
        if not victims:
            return
        for process in self.processes:
            _stop(process.pid)
        instant = self.instant()
        for process in victims:
            os.kill(process.pid, signal.SIGKILL)
            process.waiting = False
        for process in self.processes:
            if process not in victims:
                os.kill(process.pid, signal.SIGCONT)
        roles = tuple(role for role in ROLES if any(process.role == role for process in victims))
        self.strike = Strike(plan, roles, instant)


def _stop(pid: int) -> None:
    """Stop a process, and wait until all of it stands still."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, signal.SIGSTOP)
        for _ in range(20000):
            tasks = Path(f"/proc/{pid}/task").iterdir()
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
            if all(state in "TtZX" for state in states):
                return
            time.sleep(0.0005)
        raise TimeoutError(f"process {pid} does not stop: {states}")
