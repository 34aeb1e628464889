"""Trivial jobs on HTCondor: drawbar's scatter, submissions one by one, and snakemake's own executor.

    python -m benchmarks.htcondor [--jobs 1000] [--snakemake-python P] [--snakemake-jobs 100] >RECORD

Needs a pool (`tests/clusters/htcondor start`, and the CONDOR_CONFIG that it prints), a TMPDIR that its
machines see, and to be run as the pool's user. P is a Python that its machines see, too, with snakemake
and snakemake-executor-plugin-htcondor; each of its jobs starts another snakemake, so it gets fewer. All
three are used as they come: no poll interval is changed. Prints the page of results.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import batch
from benchmarks.batch import Ledger, Outcome

TITLE = """\
# HTCondor: {jobs} trivial jobs

`python -m benchmarks.htcondor`, {date}: drawbar {version}, a pool of one slot with 32 cores (HTCondor
{htcondor}) on one machine of {cores} cores, which runs the jobs too; load average {load:.1f} at the start.
"""
COUNT = """\
# Leaves a line for each call of a schedd through the bindings.
import functools, sys
if "{only}" in " ".join(sys.orig_argv):
    import htcondor2
    def counted(name, function):
        @functools.wraps(function)
        def call(*arguments, **options):
            with open("{log}", "a") as log:
                log.write(name + "\\n")
            return function(*arguments, **options)
        return call
    for name in ("submit", "query", "history", "act"):
        setattr(htcondor2.Schedd, name, counted(name, getattr(htcondor2.Schedd, name)))
"""
SNAKEFILE = """\
rule all:
    input: expand("out/{{n}}", n=range({jobs}))
rule one:
    output: "out/{{n}}"
    shell: "sh -c '{script}' {{wildcards.n}}; touch {{output}}"
"""


def scatter(directory: Path, jobs: int) -> Outcome:
    """drawbar, with its defaults."""
    ledger, home = Ledger(directory / "ledger"), directory / "home"
    home.mkdir()
    log = _count(home, directory / "calls", "drawbar_htcondor.helper")
    before = _cpu_s()
    outcome = batch.drawbar(home, jobs, "htcondor", "", ledger)
    return replace(outcome, calls=_calls(log), cpu_s=_cpu_s() - before)


def loop(directory: Path, jobs: int) -> Outcome:
    """What one writes at first: a submission for each job, then a look at the queue every second."""
    import htcondor2

    ledger, calls = Ledger(directory / "ledger"), Counter[str]()
    job = directory / "job"
    job.write_text(f"#!/bin/sh\nexec sh -c '{ledger.script}' $1\n")
    job.chmod(0o755)
    cpu, began = time.process_time(), time.time()
    schedd, waiting = htcondor2.Schedd(), {}
    for number in range(jobs):
        lines = {"executable": str(job), "arguments": str(number), "initialdir": str(directory)}
        lines |= {"should_transfer_files": "NO"}
        waiting[schedd.submit(htcondor2.Submit(lines), count=1).cluster()] = str(number)
        calls["submit"] += 1
    known: dict[str, float] = {}
    while waiting:
        time.sleep(1)
        there: Any = {ad["ClusterId"] for ad in schedd.query(projection=["ClusterId"])}
        calls["query"] += 1
        now = time.time()
        known |= {waiting.pop(each): now for each in set(waiting) - there}
    cpu = time.process_time() - cpu
    return Outcome("submissions one by one", jobs, began, ledger.ends(), known, calls, cpu)


def snakemake(directory: Path, jobs: int, python: str) -> Outcome:
    """snakemake --executor htcondor, with its defaults."""
    ledger = Ledger(directory / "ledger")
    log = _count(directory, directory / "calls", "--executor htcondor")
    (directory / "Snakefile").write_text(
        SNAKEFILE.format(jobs=jobs, script=ledger.script.replace('"', '\\"').replace("{", "{{"))
    )
    command = [python, "-m", "snakemake", "--executor", "htcondor", "--jobs", str(jobs)]
    command += ["--default-resources", "getenv=True"]  # its jobs fail where the pool gives them no PATH
    before, began = _cpu_s(), time.time()
    process = subprocess.Popen(
        [*command, "--shared-fs-usage", "persistence", "input-output", "sources", "software-deployment"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    known = batch.known_by_snakemake(process, jobs)
    cpu = _cpu_s() - before
    return Outcome("snakemake --executor htcondor", jobs, began, ledger.ends(), known, _calls(log), cpu)


def _count(directory: Path, log: Path, only: str) -> Path:
    """Have processes with `only` in their command line, and `directory` on their path, log their calls."""
    (directory / "sitecustomize.py").write_text(COUNT.format(log=log, only=only))
    return log


def _calls(log: Path) -> dict[str, int]:
    return Counter(log.read_text().split())


def _cpu_s() -> float:
    """Of children that have ended; jobs of a pool are none."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--snakemake-python", metavar="P", help="leave snakemake out without it")
    parser.add_argument("--snakemake-jobs", type=int, default=100)
    asked = parser.parse_args()
    runs: list[tuple[Any, int, tuple[str, ...]]] = [(scatter, asked.jobs, ()), (loop, asked.jobs, ())]
    if asked.snakemake_python:
        python = (asked.snakemake_python,)
        if asked.snakemake_jobs != asked.jobs:
            runs.append((scatter, asked.snakemake_jobs, ()))
        runs.append((snakemake, asked.snakemake_jobs, python))
    import htcondor2

    place = htcondor2.Collector().locate(htcondor2.DaemonType.Schedd)
    facts = {"htcondor": place["CondorVersion"].split()[1], "load": os.getloadavg()[0]}
    facts |= {"date": date.today().isoformat(), "version": version("drawbar"), "cores": os.cpu_count()}
    print(TITLE.format(jobs=asked.jobs, **facts))
    print(batch.HEAD, flush=True)
    for run, jobs, more in runs:
        with tempfile.TemporaryDirectory(prefix="drawbar-bench-", ignore_cleanup_errors=True) as temporary:
            directory = Path(temporary).resolve()
            print(run(directory, jobs, *more).row, flush=True)


if __name__ == "__main__":
    main()
