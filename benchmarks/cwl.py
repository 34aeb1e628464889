"""CWL: CPU seconds per trivial scattered job, and of start-up, beside cwltool and cwltool --parallel.

    python -m benchmarks.cwl [--jobs 200 1000]

Every runner has the same workflow and a process of its own, and its CPU time is told apart from that of the
jobs. For cwltool that is the one process; for drawbar the engine process and the driver are told apart,
and the local backend's supervisor counts with its jobs. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WORKFLOW = {
    "cwlVersion": "v1.2",
    "class": "Workflow",
    "requirements": {"ScatterFeatureRequirement": {}},
    "inputs": {"words": "string[]"},
    "outputs": {"files": {"type": "File[]", "outputSource": "say/out"}},
    "steps": {
        "say": {
            "run": {
                "class": "CommandLineTool",
                "baseCommand": "echo",
                "inputs": {"word": {"type": "string", "inputBinding": {}}},
                "outputs": {"out": {"type": "stdout"}},
                "stdout": "out.txt",
            },
            "scatter": "word",
            "in": {"word": "words"},
            "out": ["out"],
        }
    },
}
CWLTOOL = """\
import resource, sys
from cwltool.main import main
status = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        file.write(f"{usage.ru_utime + usage.ru_stime} ")
    file.write("0")
sys.exit(status)
"""
DRAWBAR = """\
import os, resource, sys
from drawbar.enginehost import EngineProcess
from drawbar_cwl.runner import main

engine = 0.0

def close(self, close=EngineProcess.close):
    global engine
    with open(f"/proc/{self.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    engine = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    close(self)

EngineProcess.close = close
status = main(sys.argv[2:])
own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    others = children.ru_utime + children.ru_stime - engine
    file.write(f"{engine} {others} {own.ru_utime + own.ru_stime}")
sys.exit(status)
"""
RUNNERS = {
    "cwltool": (CWLTOOL, []),
    "cwltool --parallel": (CWLTOOL, ["--parallel"]),
    "drawbar": (DRAWBAR, []),
}


@dataclass(frozen=True)
class Cost:
    """CPU seconds of the engine, of the jobs and what starts them, and of the driver; and the wall time."""

    engine: float
    jobs: float
    driver: float
    wall: float


def measure(runner: str, jobs: int, directory: Path) -> Cost:
    script, arguments = RUNNERS[runner]
    inputs = directory / f"{jobs}.json"
    inputs.write_text(json.dumps({"words": [f"word{number}" for number in range(jobs)]}))
    report = directory / "cpu"
    command = [sys.executable, "-c", script, str(report), *arguments, "--quiet", "--outdir"]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=directory) as outputs:
        subprocess.run(
            [*command, outputs, str(directory / "flow.cwl"), str(inputs)],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=directory,
        )
        assert len(list(Path(outputs).iterdir())) == jobs
    return Cost(*map(float, report.read_text().split()), time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[200, 1000])
    counts = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="bench-cwl-") as name:
        directory = Path(name)
        (directory / "flow.cwl").write_text(json.dumps(WORKFLOW))
        print(f"{'':20} {'jobs':>5} | {'CPU s':^25} | {'CPU ms per job':^25} | wall s")
        print(f"{'':20} {'':>5} | {_row('engine', 'jobs', 'driver')} | {_row('engine', 'jobs', 'driver')} |")
        for runner in RUNNERS:
            first = measure(runner, 1, directory)
            for jobs in (1, *counts):
                cost = first if jobs == 1 else measure(runner, jobs, directory)
                spent = [cost.engine, cost.jobs, cost.driver]
                each = [
                    f"{1000 * (after - before) / (jobs - 1):.2f}" if jobs > 1 else ""
                    for after, before in zip(spent, (first.engine, first.jobs, first.driver), strict=True)
                ]
                total = _row(*(f"{value:.2f}" for value in spent))
                print(f"{runner:20} {jobs:5} | {total} | {_row(*each)} | {cost.wall:6.2f}", flush=True)


def _row(*values: str) -> str:
    return " ".join(f"{value:>8}" for value in values)[1:]


if __name__ == "__main__":
    main()
