"""Trivial jobs on Slurm: drawbar's scatter, a plain loop of sbatch, and snakemake's own executor.

    python -m benchmarks.slurm [--jobs 1000] [--snakemake-python P] [--snakemake-jobs 100] [--record]

Needs a Slurm that answers (`tests/clusters/slurm start`, and the SLURM_CONF that it prints). P is the
Python of an environment with snakemake and snakemake-executor-plugin-slurm; each of its jobs starts
another snakemake, so 1,000 of them take half an hour. All three are used as they come: no poll interval
is changed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks import batch
from benchmarks.batch import Counted, Ledger, Outcome

RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "slurm-benchmark.md"
TITLE = """\
# Slurm: {jobs} trivial jobs

`python -m benchmarks.slurm`, {date}: drawbar {version}, {slurm} with {nodes} nodes of {cpus} CPUs on one
machine of {cores} cores, which runs the jobs too; load average {load:.1f} at the start.
"""
WHERE = {"date": date.today().isoformat(), "version": version("drawbar"), "cores": os.cpu_count()}
COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr", "srun")
SNAKEFILE = """\
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule one:
    output: "out/{{n}}"
    shell: "sh -c '{script}' {{wildcards.n}}; touch {{output}}"
"""


def scatter(directory: Path, jobs: int) -> Outcome:
    """drawbar, with its defaults."""
    counted, ledger = Counted(directory / "bin", COMMANDS), Ledger(directory / "ledger")
    settings = f'bin_directory = "{counted.directory}"'
    outcome = batch.drawbar(directory / "home", jobs, "slurm", settings, ledger)
    return replace(outcome, calls=counted.calls())


def loop(directory: Path, jobs: int) -> Outcome:
    """What one writes at first: a submission for each job, then a look at the queue every second."""
    counted, ledger = Counted(directory / "bin", COMMANDS), Ledger(directory / "ledger")
    environment = {**os.environ, "PATH": f"{counted.directory}:{os.environ['PATH']}"}
    sbatch = ["sbatch", "--parsable", "--output=/dev/null"]
    job = directory / "job"
    job.write_text(f"#!/bin/sh\nexec sh -c '{ledger.script}' $1\n")

    def call(*argv: str) -> str:
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout

    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    waiting = {call(*sbatch, str(job), str(number)).strip(): str(number) for number in range(jobs)}
    known: dict[str, float] = {}
    while waiting:
        time.sleep(1)
        there = set(call("squeue", "--noheader", "--format=%i").split())
        now = time.time()
        known |= {waiting.pop(job): now for job in set(waiting) - there}
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome("a loop of sbatch", jobs, began, ledger.ends(), known, counted.calls(), cpu)


def snakemake(directory: Path, jobs: int, python: str) -> Outcome:
    """snakemake --executor slurm, with its defaults."""
    variables = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
    counted = Counted(directory / "bin", COMMANDS, **variables)  # its jobs have lost what says where Slurm is
    ledger = Ledger(directory / "ledger")
    (directory / "Snakefile").write_text(
        SNAKEFILE.format(jobs=jobs, script=ledger.script.replace('"', '\\"').replace("{", "{{"))
    )
    command = [python, "-m", "snakemake", "--executor", "slurm", "--jobs", str(jobs)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    process = subprocess.Popen(
        [*command, "--default-resources", "slurm_partition=debug", "mem_mb=1000", "runtime=10"],
        cwd=directory,
        env={**os.environ, "PATH": f"{counted.directory}:{Path(python).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    known = batch.known_by_snakemake(process, jobs)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome("snakemake --executor slurm", jobs, began, ledger.ends(), known, counted.calls(), cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--snakemake-python", metavar="P", help="leave snakemake out without it")
    parser.add_argument("--snakemake-jobs", type=int, default=100)
    parser.add_argument("--record", action="store_true", help=f"write docs/results/{RECORD.name}")
    asked = parser.parse_args()
    runs = [(scatter, asked.jobs, ()), (loop, asked.jobs, ())]
    if asked.snakemake_python:
        python = (asked.snakemake_python,)
        beside = [(scatter, asked.snakemake_jobs, ())] if asked.snakemake_jobs != asked.jobs else []
        runs += [*beside, (snakemake, asked.snakemake_jobs, python)]
    load = os.getloadavg()[0]
    slurm = _said("sbatch", "--version")
    cpus = _said("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%c").split()
    lines = [batch.HEAD]
    print(batch.HEAD, flush=True)
    for run, jobs, more in runs:
        with tempfile.TemporaryDirectory(prefix="drawbar-bench-") as temporary:
            lines.append(run(Path(temporary).resolve(), jobs, *more).row)
            print(lines[-1], flush=True)
    if asked.record:
        title = TITLE.format(jobs=asked.jobs, slurm=slurm, nodes=len(cpus), cpus=cpus[0], load=load, **WHERE)
        RECORD.write_text("\n".join([title, *lines, ""]))


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
