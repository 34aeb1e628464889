"""Runs of drawbar's command line, and what each of its processes took.

CPU seconds are each process's own, sampled from /proc until it is gone: those of jobs are not in them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
IN_FLIGHT = 4
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_SAMPLE_S = 0.02


@dataclass(frozen=True)
class Usage:
    """Seconds of wall time and, by role, of CPU; `began` is the time of the start."""

    wall_s: float
    driver: float
    engine: float
    supervisor: float
    began: float = 0.0

    @property
    def own(self) -> float:
        return self.driver + self.engine + self.supervisor


class Home:
    """A new DRAWBAR_HOME with the engine of the benchmarks, and an analysis for it."""

    def __init__(self, directory: Path, **specification: object) -> None:
        self.directory = directory
        self.analysis = directory / "analysis"
        self.analysis.mkdir(parents=True)
        document = {"workflow": {"type": "bench", "specification": specification}}
        (self.analysis / "reana.yaml").write_text(yaml.safe_dump(document))
        metadata = directory / "drawbar_bench-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: drawbar-bench\nVersion: 0\n")
        (metadata / "entry_points.txt").write_text("[drawbar]\nbench = drawbar_bench\n")
        path = f"{HERE / 'plugin'}:{directory}"
        interpreter = directory / "python"
        interpreter.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)
        (directory / "drawbar.toml").write_text(
            f'[engines.bench]\ninterpreter = "{interpreter}"\n[backends.local]\ncpus = {IN_FLIGHT}\n'
        )
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "DRAWBAR_HOME": str(directory / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(directory / "drawbar.toml"),
        }

    def run(self) -> Usage:
        """`drawbar run`, as run b.1."""
        return self._measured("run", str(self.analysis), "--name", "b")

    def resume(self) -> Usage:
        """`drawbar resume` of it."""
        return self._measured("resume", "b")

    def times(self) -> list[tuple[float, float]]:
        """When each job was started and ended, in the order of their ends."""
        store = self.directory / "home" / "runs" / "b.1" / "store.sqlite"
        rows = sqlite3.connect(store).execute(
            "SELECT json_extract(result, '$.started'), json_extract(result, '$.finished') FROM attempt"
        )
        return sorted(rows.fetchall(), key=lambda row: row[1])

    def _measured(self, *arguments: str) -> Usage:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "drawbar.cli", *arguments, "--quiet"],
            env=self.environment,
            stdin=subprocess.DEVNULL,
        )
        watch = _Watch(process.pid)
        status = process.wait()
        wall = time.monotonic() - began
        watch.end()
        if status:
            sys.exit(f"drawbar {arguments[0]} ended with status {status}")
        cpu = {role: watch.cpu.get(role, 0.0) for role in ("driver", "engine", "supervisor")}
        return Usage(wall, **cpu, began=time.time() - wall)


class _Watch:
    """Samples the CPU seconds of a driver and of those of its children that are drawbar's."""

    def __init__(self, pid: int) -> None:
        self.cpu: dict[str, float] = {}
        self._roles = {pid: "driver"}
        self._driver = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            if len(self._roles) < 3:
                self._find()
            for pid, role in self._roles.items():
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] != "Z":
                    self.cpu[role] = (int(fields[11]) + int(fields[12])) * TICK_S

    def _find(self) -> None:
        try:
            tasks = list(Path(f"/proc/{self._driver}/task").iterdir())
            children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
            for pid in children:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"drawbar.enginemain" in command:
                    self._roles[pid] = "engine"
                elif b"drawbar_local.supervisor" in command:
                    self._roles[pid] = "supervisor"
        except OSError:
            return  # one of them has just ended


def scratch() -> Path:
    """A directory on the disk that homes usually are on.

    It is gone when Python ends, and not before: ext4 steps over the inodes that were freed in the last
    minutes one by one, for every file that is made meanwhile.
    """
    path = Path(tempfile.mkdtemp(prefix="dbb-"))
    atexit.register(shutil.rmtree, path)
    return path


@dataclass(frozen=True)
class Floor:
    """What processes cost without drawbar, per job: seconds of wall time and CPU."""

    wall_s: float
    cpu_s: float


def floor(jobs: int, directory: Path) -> Floor:
    """`sh -c true`, with a log file for each, so many in flight: the least that a runner could do."""
    path = shutil.which("sh") or "/bin/sh"
    directory.mkdir()
    environment = dict(os.environ)
    before, began = os.times(), time.monotonic()
    running = started = 0
    while started < jobs or running:
        if started < jobs and running < IN_FLIGHT:
            log = os.open(f"{directory}/{started}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
            os.posix_spawn(path, ["sh", "-c", "true"], environment, file_actions=actions)
            os.close(log)
            started, running = started + 1, running + 1
        else:
            os.wait4(-1, 0)
            running -= 1
    wall, after = time.monotonic() - began, os.times()
    return Floor(wall / jobs, (sum(after[:4]) - sum(before[:4])) / jobs)


def cpu_of(argv: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall and CPU seconds of a command with everything that it starts and waits for."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{argv} ended with status {process.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime
