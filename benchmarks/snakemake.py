"""Snakemake: CPU seconds per trivial job and per step of a chain, beside plain snakemake.

    python -m benchmarks.snakemake [--jobs 200 1000] [--chain 50]

Both have the same Snakefile and two cores; `snakemake --cores 2` is as its users call it. The CPU seconds
of the process and of its children are told apart: of snakemake, the children are the jobs (and the
solver of its scheduler); of drawbar, they are the engine process, while the jobs belong to the local
backend's supervisor and are measured with it. Start-up is a workflow with one job, and is left out of
what a job costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

WIDE = """\
rule all:
    input: expand("out/{{n}}", n=range({count}))
rule one:
    output: "out/{{n}}"
    shell: "echo {{wildcards.n}} > {{output}}"
"""
CHAIN = """\
rule all:
    input: "out/{count}"
rule first:
    output: "out/0"
    shell: "echo 0 > {{output}}"
rule next:
    input: lambda wildcards: f"out/{{int(wildcards.n) - 1}}"
    output: "out/{{n,[1-9][0-9]*}}"
    shell: "cat {{input}} > {{output}}"
"""
MEASURED = """\
import resource, sys
{start}
try:
    status = main(sys.argv[2:])
except SystemExit as stop:
    status = stop.code
with open(sys.argv[1], "w") as file:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        file.write(f"{{usage.ru_utime + usage.ru_stime}}\\n")
sys.exit(status or 0)
"""
RUNNERS = {
    "snakemake": MEASURED.format(start="from snakemake.cli import main"),
    "drawbar": MEASURED.format(start="from drawbar_snakemake.command import main"),
}


@dataclass(frozen=True)
class Cost:
    """CPU seconds of the process, of its children, and wall seconds."""

    own: float
    children: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.own + self.children


def measure(runner: str, snakefile: str, directory: Path) -> Cost:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "Snakefile").write_text(snakefile)
    report = directory / "usage"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUNNERS[runner], str(report), "--cores", "2"],
        cwd=directory,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        check=False,
    )
    wall = time.monotonic() - began
    if done.returncode != 0:
        sys.exit(f"{runner} failed:\n{done.stderr[-3000:]}")
    own, children = map(float, report.read_text().split())
    return Cost(own, children, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--chain", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    asked = parser.parse_args()
    workflows = {"one job": (1, WIDE.format(count=1))}
    workflows |= {f"{count} jobs": (count, WIDE.format(count=count)) for count in asked.jobs}
    workflows[f"chain of {asked.chain}"] = (asked.chain, CHAIN.format(count=asked.chain - 1))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="drawbar-bench-") as temporary:
        print(f"{'workflow':14} {'runner':10} {'own':>8} {'children':>9} {'wall':>8} {'CPU ms/job':>11}")
        started: dict[str, float] = {}
        for name, (count, snakefile) in workflows.items():
            for runner in RUNNERS:
                cost = measure(runner, snakefile, Path(temporary, "work"))
                started.setdefault(runner, cost.cpu)
                each = (cost.cpu - started[runner]) / max(1, count - 1) * 1000
                figures.setdefault(name, {})[runner] = {
                    "own_s": cost.own,
                    "children_s": cost.children,
                    "wall_s": cost.wall,
                    "cpu_ms_per_job": each,
                }
                shown = f"{cost.own:8.2f} {cost.children:9.2f} {cost.wall:8.2f} {each:11.1f}"
                print(f"{name:14} {runner:10} {shown}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
