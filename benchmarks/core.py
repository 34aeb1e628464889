"""Benchmarks of the core: rate of local jobs, start-up, latency between steps, resume of finished runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.measure import Floor, Home, Usage, cpu_of, floor, scratch

ROUNDS = 3
"""How often each is measured, in turns; medians are reported."""


@dataclass(frozen=True)
class Row:
    """A line of the result: what, how much, and what the goal is."""

    what: str
    value: str
    goal: str = ""
    reached: bool | None = None


def native() -> list[Row]:
    """Rate and own CPU of 2,000 jobs beside the spawn floor; CPU per job at 10,000 beside 1,000."""
    jobs = 2000
    floors: list[Floor] = []
    runs: list[Usage] = []
    starts: list[Usage] = []
    small: list[Usage] = []
    for _ in range(ROUNDS):
        root = scratch()
        floors.append(floor(jobs, root / "logs"))
        runs.append(Home(root / "jobs", jobs=jobs).run())
        starts.append(Home(root / "one", jobs=1).run())
        small.append(Home(root / "small", jobs=1000).run())
    root = scratch()
    large = Home(root / "large", jobs=10000).run()
    floor_wall, floor_cpu = median(each.wall_s for each in floors), median(each.cpu_s for each in floors)
    start = _middle(starts)
    run = _middle(runs)
    wall = (run.wall_s - start.wall_s) / jobs
    own = _per_job(run, start, jobs)
    total = sum(own.values())
    share = floor_wall / wall
    level = sum(_per_job(large, start, 10000).values()) / sum(_per_job(_middle(small), start, 1000).values())
    return [
        Row("spawn floor, `sh -c true` with a log file, 4 in flight", f"{1 / floor_wall:.0f}/s"),
        Row("the floor's CPU per job", _ms(floor_cpu)),
        Row(
            f"drawbar, {jobs} jobs, start-up apart",
            f"{1 / wall:.0f}/s, {share:.0%} of the floor",
            "≥ 70 % of the floor",
            share >= 0.7,
        ),
        *(Row(f"own CPU per job: {role}", _ms(value)) for role, value in own.items()),
        Row(
            "own CPU per job, all",
            f"{_ms(total)}, {total / floor_cpu:.0%} of the floor",
            "≤ half of the floor's",
            total <= floor_cpu / 2,
        ),
        Row("own CPU per job, 10,000 jobs beside 1,000", f"{level:.2f}", "level: ≤ 1.1", level <= 1.1),
    ]


def startup() -> list[Row]:
    """CPU of `--help` and `--version` beside importing click; a run of one job from begin to end."""
    python = [sys.executable, "-P"]
    commands = {
        "import click": [*python, "-c", "import click"],
        "--version": [*python, "-m", "drawbar.cli", "--version"],
        "--help": [*python, "-m", "drawbar.cli", "--help"],
    }
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(5 * ROUNDS):
        for name, command in commands.items():
            cpu[name].append(cpu_of(command)[1])
    click = median(cpu["import click"])
    rows = [Row("`python -c 'import click'`", _ms(click))]
    for name in ("--version", "--help"):
        ratio = median(cpu[name]) / click
        rows.append(
            Row(
                f"`drawbar {name}`",
                f"{_ms(median(cpu[name]))}, {ratio:.2f} times",
                "≤ 2 times",
                ratio <= 2,
            )
        )
    runs = []
    for _ in range(ROUNDS):
        root = scratch()
        runs.append(Home(root / "one", jobs=1).run())
    run = _middle(runs)
    rows.append(
        Row(
            "a run of one job, from begin to end",
            f"{run.wall_s:.2f} s, {run.own:.2f} s CPU",
            "≤ 0.5 s",
            run.wall_s <= 0.5,
        )
    )
    return rows


def latency() -> list[Row]:
    """From the end of a job to the start of the one that waits for it, in a chain of 50."""
    gaps, spawns = [], []
    for _ in range(ROUNDS):
        root = scratch()
        spawns.append(floor(200, root / "logs").wall_s)
        home = Home(root / "chain", jobs=50, chain=True)
        home.run()
        times = home.times()
        gaps += [later[0] - earlier[1] for earlier, later in pairwise(times)]
    gap, spawn = median(gaps), median(spawns)
    return [
        Row("one spawn", _ms(spawn)),
        Row(
            "from the end of a step to the start of the next",
            f"{_ms(gap)}, {gap / spawn:.1f} spawns",
            "≤ 10 spawns",
            gap <= 10 * spawn,
        ),
    ]


def resume() -> list[Row]:
    """CPU per job of resuming a run in which every job has finished."""
    per_job = {}
    rows = []
    for jobs in (1000, 10000):
        root = scratch()
        home, one = Home(root / "many", jobs=jobs), Home(root / "one", jobs=1)
        home.run()
        one.run()
        usages, starts = [], []
        for _ in range(ROUNDS):
            usages.append(home.resume())
            starts.append(one.resume())
        usage, start = _middle(usages), _middle(starts)
        own = _per_job(usage, start, jobs)
        per_job[jobs] = sum(own.values())
        shown = ", ".join(f"{role} {_ms(value)}" for role, value in own.items() if role != "supervisor")
        wall = usage.wall_s
        rows.append(Row(f"resume of {jobs:,} finished jobs: CPU per job", f"{shown}; {wall:.2f} s in all"))
    level = per_job[10000] / per_job[1000]
    rows.append(Row("CPU per job, 10,000 jobs beside 1,000", f"{level:.2f}", "level: ≤ 1.1", level <= 1.1))
    rows.append(Row("re-run of 10,000 finished jobs", f"{wall:.2f} s", "≤ 0.5 s (anchors)", wall <= 0.5))
    return rows


def _middle(usages: list[Usage]) -> Usage:
    return Usage(*(median(getattr(usage, name) for usage in usages) for name in Usage.__dataclass_fields__))


def _per_job(usage: Usage, start: Usage, jobs: int) -> dict[str, float]:
    """Own CPU seconds per job by role, without what a run of one job takes."""
    return {
        role: (getattr(usage, role) - getattr(start, role)) / jobs
        for role in ("driver", "engine", "supervisor")
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


BENCHMARKS = {each.__name__: each for each in (native, startup, latency, resume)}
