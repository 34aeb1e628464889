"""What the benchmarks of batch systems share: trivial jobs, who knew of their ends when, and a table.

Each job writes its number and the time into a ledger as the last thing it does. The ledger says
whether a job was lost or done twice, and how long after its end somebody knew of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from benchmarks.measure import Home


@dataclass(frozen=True)
class Outcome:
    """What came of `jobs` jobs: times are seconds since the epoch, calls those of the scheduler by name."""

    name: str
    jobs: int
    began: float
    ends: Mapping[str, Sequence[float]]
    known: Mapping[str, float]
    calls: Mapping[str, int] = field(default_factory=dict)
    cpu_s: float | None = None
    """Of the processes that submit and watch, without the scheduler's and the jobs' own."""

    @property
    def wall_s(self) -> float:
        """From the start of the program until it knew of the last job."""
        return max(self.known.values()) - self.began

    @property
    def lost(self) -> int:
        return self.jobs - len(self.ends)

    @property
    def doubled(self) -> int:
        return sum(len(times) > 1 for times in self.ends.values())

    def lag_s(self, share: float) -> float:
        """How long after its end a job was known to have ended, at most, for this share of the jobs."""
        lags = sorted(self.known[number] - self.ends[number][0] for number in self.known)
        return lags[ceil(share * len(lags)) - 1]

    @property
    def row(self) -> str:
        calls = ", ".join(f"{count} {name}" for name, count in sorted(self.calls.items()))
        cpu = "" if self.cpu_s is None else f"{1000 * self.cpu_s / self.jobs:.1f}"
        return (
            f"| {self.name} | {self.jobs} | {sum(self.calls.values())} ({calls}) | {self.wall_s:.1f} "
            f"| {self.lag_s(0.5):.2f} | {self.lag_s(0.99):.2f} | {cpu} | {self.lost} | {self.doubled} |"
        )


HEAD = (
    "| who | jobs | scheduler calls | wall time to the last result, s | lag p50, s | lag p99, s "
    "| own CPU per job, ms | lost | doubled |\n|---|---|---|---|---|---|---|---|---|"
)


class Ledger:
    """A file that jobs write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    @property
    def script(self) -> str:
        """What a job runs, with `sh -c`, and its number as `$0`."""
        return f'echo "$0 $(date +%s.%N)" >> {self.path}'

    def ends(self) -> dict[str, list[float]]:
        """When each job ended, by its number."""
        ends: dict[str, list[float]] = {}
        for line in self.path.read_text().splitlines():
            number, time = line.split()
            ends.setdefault(number, []).append(float(time))
        return ends


class Counted:
    """A directory of commands that are the real ones, and leave a line for each call.

    They have `variables` even where a caller has taken them out of the environment.
    """

    def __init__(self, directory: Path, names: Sequence[str], **variables: str) -> None:
        self.directory = directory
        self._log = directory / "calls"
        directory.mkdir()
        exports = "".join(f"export {name}={value}\n" for name, value in variables.items())
        for name in names:
            real = shutil.which(name)
            command = directory / name
            command.write_text(f'#!/bin/sh\necho {name} >> {self._log}\n{exports}exec {real} "$@"\n')
            command.chmod(0o755)

    def calls(self) -> dict[str, int]:
        """How often each was called."""
        return Counter(self._log.read_text().split()) if self._log.exists() else {}


def drawbar(
    directory: Path, jobs: int, backend: str, settings: str, ledger: Ledger, image: str | None = None
) -> Outcome:
    """One scatter through `drawbar run`; `settings` are the backend's table, in the form of TOML."""
    home = Home(directory, jobs=jobs, script=ledger.script, image=image)
    table = directory / "drawbar.toml"
    table.write_text(f'backend = "{backend}"\n{table.read_text()}[backends.{backend}]\n{settings}\n')
    usage = home.run()
    run = next((directory / "home" / "runs").iterdir())
    known = dict(line.split() for line in (run / "workspace" / "known").read_text().splitlines())
    return Outcome(
        name="drawbar, one scatter",
        jobs=jobs,
        began=usage.began,
        ends=ledger.ends(),
        known={number: float(time) for number, time in known.items()},
        cpu_s=usage.own,
    )


def known_by_snakemake(process: subprocess.Popen[str], jobs: int) -> dict[str, float]:
    """When snakemake said of each job, by its wildcard n, that it ended; exits with its log if it failed."""
    names: dict[str, str] = {}
    known: dict[str, float] = {}
    number, log = "", []
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line)
        if match := re.match(r"\s+jobid: (\d+)", line):
            number = match[1]
        elif match := re.match(r"\s+wildcards: n=(\d+)", line):
            names[number] = match[1]
        elif (match := re.search(r"Finished jobid: (\d+)", line)) and match[1] in names:
            known[names[match[1]]] = time.time()
    if process.wait() or len(known) != jobs:
        sys.exit("snakemake failed:\n" + "".join(log[-40:]))
    return known
