"""Kills drawbar's processes at many instants and looks whether anything is lost or done twice.

    python -m tests.faults.campaign --instants 240 --seed 1 [--report docs/results/faults.md]

A trial runs a workload through the command line, strikes once or twice with SIGKILL, at a write
point or after a delay, and resumes until the run has finished. The judge is the ledger that the
jobs themselves write. Exit status 1, and the trials to look at, when anything is wrong.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

from tests.faults.stage import ROLES, Instant, Plan, Stage, Strike
from tests.faults.workloads import WORKLOADS, Workload, snapshot

TIMEOUT_S = 60.0
VICTIMS = [each for size in (1, 2, 3) for each in combinations(ROLES, size)]
ENDED = ("finished", "failed", "stopped")
PLACES = ("starting", "submitting", "running", "collecting", "ending")


@dataclass
class Trial:
    """One run from its start to its end, with what is wrong with it."""

    number: int
    workload: Workload
    seed: str
    strikes: list[Strike] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    lost: int = 0
    repeated: int = 0
    overlapping: int = 0
    unfinished: int = 0
    again: int = 0
    """Jobs that were not accepted and had to be done again."""


@dataclass(frozen=True)
class Entry:
    """A line of the ledger."""

    offset: int
    job: str
    what: str


def read_ledger(path: Path) -> list[Entry]:
    entries, offset = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        job, what, *_ = line.decode().split()
        entries.append(Entry(offset, job, what))
        offset += len(line)
    return entries


class Ground:
    """Where one trial takes place: a home, an analysis, a ledger and a stage, all in a new directory."""

    def __init__(self, workload: Workload, directory: Path, sabotage: str = "") -> None:
        self.workload = workload
        self.directory = directory
        self.ledger = directory / "ledger" / "ledger"
        self.ledger.parent.mkdir(parents=True)
        self.ledger.touch()
        self.outputs = directory / "outputs"
        self.log = directory / "log"
        self.analysis = directory / "analysis"
        workload.write(self.analysis)
        self.stage = Stage(directory, self.ledger, self._store)
        if sabotage:
            (directory / "sabotage").write_text(sabotage)
        self._write_plugin()
        self._write_settings()
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "DRAWBAR_HOME": str(directory / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(directory / "drawbar.toml"),
            "XDG_CONFIG_HOME": str(directory),
            "FAULTS_LEDGER": str(self.ledger),
        }

    @property
    def run(self) -> Path | None:
        """The run's directory, once there is a run."""
        made = list((self.directory / "home" / "runs").glob("t.*/run.json"))
        return made[0].parent if made else None

    def can_be_run_again(self) -> bool:
        """Whether `run --name` means this run, and not a new one."""
        state = self.run / "state.json" if self.run else None
        return state is None or not state.exists() or '"finished"' not in state.read_text()

    def drive(self, plan: Plan | None, *, resume: bool) -> int | None:
        arguments = (
            ["resume", "t"] if resume else ["run", str(self.analysis), "--name", "t", "--no-container"]
        )
        with self.log.open("a") as log:
            log.write(f"== {arguments[0]}: {plan}\n")
        return self.stage.drive(
            [*arguments, "--quiet", "--outputs", str(self.outputs)],
            environment=self.environment,
            log=self.log,
            plan=plan,
            timeout_s=TIMEOUT_S,
        )

    def left(self) -> dict[str, object]:
        """What the run left: its workspace and its published outputs."""
        assert self.run is not None
        return {"workspace": snapshot(self.run / "workspace"), "outputs": snapshot(self.outputs)}

    def _store(self) -> Path | None:
        store = self.run / "store.sqlite" if self.run else None
        return store if store is not None and store.exists() else None

    def _write_plugin(self) -> None:
        metadata = self.directory / "drawbar_recipes-0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: drawbar-recipes\nVersion: 0\n")
        (metadata / "entry_points.txt").write_text("[drawbar]\nrecipes = drawbar_recipes\n")

    def _write_settings(self) -> None:
        interpreter = self.directory / "python"
        command = " ".join(self.stage.command("engine"))
        interpreter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        interpreter.chmod(0o755)
        (self.directory / "drawbar.toml").write_text(
            f"[engines.{self.workload.engine}]\n"
            f'interpreter = "{interpreter}"\n'
            "[backends.local]\n"
            'environment = ["FAULTS_*"]\n'
            "cpus = 4\n"
            "grace_s = 0.5\n"
            f'runtime_directory = "{self.directory}/s"\n'
        )


@dataclass(frozen=True)
class Reference:
    """An uninterrupted run: what it leaves, where it passes, how long it takes."""

    left: dict[str, object]
    points: dict[tuple[str, str], int]
    resume_points: dict[tuple[str, str], int]
    duration_s: float


def reference(workload: Workload, directory: Path) -> Reference:
    ground = Ground(workload, directory)
    began = time.monotonic()
    status = ground.drive(None, resume=False)
    duration = time.monotonic() - began
    points = dict(ground.stage.seen)
    again = ground.drive(None, resume=True)
    if (status, again) != (0, 0) or ground.stage.wait_for_end(10):
        sys.exit(f"{workload.name}: the uninterrupted run failed:\n{ground.log.read_text()}")
    left = ground.left()
    resume_points = dict(ground.stage.seen)
    ground.stage.close()
    return Reference(left, points, resume_points, duration)


def plan_of(chance: random.Random, known: Reference, *, resume: bool) -> Plan:
    """A strike at a random point (every point is as likely, however often it is passed) or time."""
    victims = chance.choice(VICTIMS)
    if chance.random() < 0.4:
        return Plan(victims, delay_s=chance.uniform(0.15, 1.0) * known.duration_s)
    points = known.resume_points if resume and chance.random() < 0.5 else known.points
    role, point = chance.choice(sorted(points))
    return Plan(victims, role=role, point=point, hit=chance.randint(1, points[role, point]))


def place_of(instant: Instant, jobs: tuple[str, ...], entries: list[Entry]) -> str:
    """What the run was about when it was struck, from the store and the ledger."""
    if instant.state in ENDED or instant.accepted.issuperset(jobs):
        return "ending"
    last = {entry.job: entry.what for entry in entries if entry.offset < instant.ledger_size}
    if any(last.get(job) == "start" for job in instant.in_flight):
        return "running"
    if instant.collecting or any(last.get(job) == "end" for job in instant.in_flight):
        return "collecting"
    return "submitting" if instant.in_flight or instant.state == "running" else "starting"


def perform(trial: Trial, known: Reference, directory: Path, sabotage: str) -> None:
    """Do a trial and judge it; an empty list of problems means that all is well."""
    chance = random.Random(trial.seed)
    ground = Ground(trial.workload, directory, sabotage)
    instants: list[Instant] = []
    wished = chance.choice((1, 1, 2, 3))
    plans = [plan_of(chance, known, resume=bool(number)) for number in range(wished)]
    finished = False
    try:
        for drive in range(wished + 1):
            plan = plans[drive] if drive < wished else None
            resume = ground.run is not None and (not ground.can_be_run_again() or chance.random() < 0.7)
            status = ground.drive(plan, resume=resume)
            strike = ground.stage.strike
            if strike is not None:
                strike.drive = drive
                trial.strikes.append(strike)
                instants.append(strike.instant)
            if status is None:
                trial.problems.append(f"drive {drive} did not end in {TIMEOUT_S:.0f} s")
                break
            instants.append(ground.stage.instant())
            if status and strike is None:
                trial.problems.append(f"drive {drive} failed with status {status}, and was not struck")
                break
            finished = status == 0 and drive >= wished - 1
            if finished:
                break
        if not finished:
            trial.unfinished += 1
            trial.problems.append("the run has not finished")
        left_over = ground.stage.wait_for_end(15)
        if left_over:
            trial.problems.append(f"left behind: {', '.join(left_over)}")
        judge(trial, ground, instants, known, finished=finished)
    finally:
        ground.stage.close()


def judge(trial: Trial, ground: Ground, instants: list[Instant], known: Reference, *, finished: bool) -> None:
    entries = read_ledger(ground.ledger)
    for strike in trial.strikes:
        strike.place = place_of(strike.instant, trial.workload.jobs, entries)
    ended = {entry.job for entry in entries if entry.what == "end"}
    lost = sorted(set(trial.workload.jobs) - ended)
    repeated = sorted(
        {
            entry.job
            for instant in instants
            for entry in entries
            if entry.what == "start" and entry.offset >= instant.ledger_size and entry.job in instant.accepted
        }
    )
    overlapping = sorted({entry.job for entry in entries if entry.what == "overlap"})
    starts = Counter(entry.job for entry in entries if entry.what == "start")
    again = sorted(job for job, count in starts.items() if count > 1)
    trial.lost, trial.repeated, trial.overlapping = len(lost), len(repeated), len(overlapping)
    trial.again = sum(starts.values()) - len(starts)
    for what, jobs in (("lost", lost), ("repeated", repeated), ("ran twice at once", overlapping)):
        if jobs:
            trial.problems.append(f"{what}: {', '.join(jobs)}")
    harmless = all(
        "driver" in strike.victims and "supervisor" not in strike.victims for strike in trial.strikes
    )
    if again and harmless:
        trial.problems.append(f"done again, though no supervisor was killed: {', '.join(again)}")
    if finished:
        left = ground.left()
        for what, value in known.left.items():
            if left[what] != value:
                trial.problems.append(f"the {what} differ: {_difference(value, left[what])}")


def _difference(one, other) -> str:
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    return ", ".join(f"{name} ({one.get(name)} became {other.get(name)})" for name in names[:5])


def campaign(
    instants: int, seed: str, workloads: list[str], keep: Path | None = None, sabotage: str = ""
) -> list[Trial]:
    """Trials until so many strikes have happened, or until a sabotage was noticed."""
    trials: list[Trial] = []
    root = Path(tempfile.mkdtemp(prefix="dbf-", dir="/tmp"))
    try:
        known = {name: reference(WORKLOADS[name], root / f"r-{name}") for name in workloads}
        struck = 0
        for number in _numbers():
            if struck >= instants:
                break
            name = workloads[number % len(workloads)]
            trial = Trial(number, WORKLOADS[name], f"{seed}/{number}")
            directory = root / f"t{number}"
            perform(trial, known[name], directory, sabotage)
            trials.append(trial)
            struck += len(trial.strikes)
            if trial.problems:
                show(trial)
                if keep is not None:
                    shutil.copytree(directory, keep / str(number), symlinks=True, ignore=_no_sockets)
            shutil.rmtree(directory)
            if sabotage and trial.problems:
                break
    finally:
        shutil.rmtree(root)
    return trials


def _no_sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(directory) / name).is_socket()]


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def show(trial: Trial) -> None:
    print(f"trial {trial.number} ({trial.workload.name}, seed {trial.seed}):", flush=True)
    for strike in trial.strikes:
        plan = strike.plan
        where = f"{plan.role} {plan.point} #{plan.hit}" if plan.role else f"after {plan.delay_s:.3f} s"
        print(f"  drive {strike.drive}: killed {'+'.join(strike.victims)} at {where} [{strike.place}]")
    for problem in trial.problems:
        print(f"  PROBLEM {problem}", flush=True)


def table(trials: list[Trial]) -> str:
    """The strikes by place and by victims, as Markdown."""
    strikes = [strike for trial in trials for strike in trial.strikes]
    counts: Counter[tuple[str, str]] = Counter()
    for strike in strikes:
        counts["+".join(strike.victims), strike.place] += 1
        counts["+".join(strike.victims), "in a resume"] += strike.drive > 0
    columns = (*PLACES, "in a resume")
    rows = ["+".join(each) for each in VICTIMS]
    lines = [
        f"| killed | {' | '.join(PLACES)} | all | of these in a resume |",
        f"|---|{'---|' * (len(PLACES) + 2)}",
    ]
    for row in rows:
        cells = [counts[row, place] for place in PLACES]
        lines.append(
            f"| {row} | {' | '.join(map(str, cells))} | {sum(cells)} | {counts[row, 'in a resume']} |"
        )
    sums = [sum(counts[row, column] for row in rows) for column in columns]
    lines.append(f"| all | {' | '.join(map(str, sums[:-1]))} | {len(strikes)} | {sums[-1]} |")
    return "\n".join(lines)


def report(trials: list[Trial], seed: str, seconds: float) -> str:
    """What came of a campaign, as Markdown."""
    strikes = [strike for trial in trials for strike in trial.strikes]
    points = Counter(f"{strike.plan.role}: {strike.plan.point}" for strike in strikes if strike.plan.role)
    timed = sum(strike.plan.delay_s is not None for strike in strikes)
    jobs = sum(len(trial.workload.jobs) for trial in trials)
    sums = {
        "instants of SIGKILL": len(strikes),
        "runs": len(trials),
        "jobs": jobs,
        "jobs lost": sum(trial.lost for trial in trials),
        "accepted jobs repeated": sum(trial.repeated for trial in trials),
        "jobs of which two copies ran at once": sum(trial.overlapping for trial in trials),
        "runs not finished after resume": sum(trial.unfinished for trial in trials),
        "runs with any other difference": sum(bool(trial.problems) for trial in trials),
        "attempts that were not accepted and were made again": sum(trial.again for trial in trials),
    }
    lines = [
        "# Kill campaign",
        "",
        f"`python -m tests.faults.campaign --instants {len(strikes)} --seed {seed}`, "
        f"{date.today().isoformat()}: drawbar {version('drawbar')}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} cores, {seconds:.0f} s.",
        "",
        *(f"* {what}: {count}" for what, count in sums.items()),
        "",
        f"{len(strikes) - timed} strikes at {len(points)} different write points, "
        f"{timed} after a random delay.",
        "",
        table(trials),
        "",
        "## Strikes by write point",
        "",
        "| point | strikes |",
        "|---|---|",
        *(f"| {point} | {count} |" for point, count in sorted(points.items())),
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--instants", type=int, default=240)
    parser.add_argument("--seed", default=date.today().isoformat())
    parser.add_argument("--workload", action="append", choices=sorted(WORKLOADS))
    parser.add_argument("--report", type=Path, help="write the result there, as Markdown")
    parser.add_argument("--keep", type=Path, help="keep the directories of failed trials there")
    parser.add_argument(
        "--sabotage",
        default="",
        choices=("forget", "abandon", "neglect"),
        help="break drawbar, to see that the campaign notices",
    )
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    workloads = options.workload or sorted(WORKLOADS)
    trials = campaign(options.instants, options.seed, workloads, options.keep, options.sabotage)
    text = report(trials, options.seed, time.monotonic() - began)
    print(text)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(text)
    return int(any(trial.problems for trial in trials))


if __name__ == "__main__":
    sys.exit(main())
