"""Snakemake: CPU seconds per trivial job and per step of a chain, beside snakemake and its remote executor.

    python -m benchmarks.snakemake [--jobs 200 1000] [--more 5000] [--chain 50] [--remote 12] [--slurm 100]

All have the same Snakefile and two cores. `snakemake --cores 2` is as its users call it; the remote
executor is `cluster-generic`, whose submit command starts the job script in the background. CPU seconds
are those of every process of a run, also of those that outlive it: the measuring process is their reaper.
So the jobs are among them, for each runner alike; what the bare jobs cost is measured beside. A workflow
with one job is the start-up, and is left out of what a job costs.

With `--slurm` it is a Slurm that answers (`tests/clusters/slurm start`, and the SLURM_CONF that it prints):
both submit there, and what the jobs take on its nodes is what its accounting says.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
SUBMIT = '#!/bin/sh\nsetsid sh "$1" >/dev/null 2>&1 </dev/null &\necho $!\n'
REMOTE_CHAIN = 5
SBATCH = "sbatch --parsable --time=10 --mem=500 --output=/dev/null"
PLUGIN = "snakemake-executor-plugin-cluster-generic"
BUILD = Path(__file__).parent.parent / "build"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Cost:
    """CPU and wall seconds of a run with all of its jobs."""

    cpu_s: float
    wall_s: float


def measured(argv: list[str], directory: Path, environment: dict[str, str]) -> Cost:
    """What a command takes with everything that it leaves running; in a child, which becomes its reaper."""
    read, write = os.pipe()
    log = directory / "log"
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        began = time.monotonic()
        with log.open("wb") as output:
            status = subprocess.call(
                argv, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        wall = time.monotonic() - began
        while True:
            try:
                os.wait()
            except ChildProcessError:
                break
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(write, json.dumps([status, usage.ru_utime + usage.ru_stime, wall]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        status, cpu, wall = json.load(answer)
    os.waitpid(pid, 0)
    if status != 0:
        sys.exit(f"{argv} failed:\n{log.read_text()[-3000:]}")
    return Cost(cpu, wall)


def on_nodes(since: float) -> float:
    """CPU seconds of all processes of the jobs that Slurm started since then."""
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since))
    argv = [
        "sacct",
        "--noheader",
        "--parsable2",
        "--allusers",
        "--starttime",
        start,
        "--format=JobID,TotalCPU",
    ]
    told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    total = 0.0
    for line in told.splitlines():
        job, _, took = line.partition("|")
        if "." in job:  # a step; its job has the sum
            seconds = 0.0
            for part in took.replace("-", ":").split(":"):
                seconds = seconds * 60 + float(part)
            total += seconds
    return total


class Runners:
    """The commands that are compared, and where they work."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.submit = place / "submit"
        self.submit.write_text(SUBMIT)
        self.submit.chmod(0o755)

    def run(self, runner: str, snakefile: str, *, slurm: bool = False) -> Cost:
        """One run, in an empty directory; on a Slurm with that."""
        directory = self.place / "work"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        (directory / "Snakefile").write_text(snakefile)
        environment = dict(self.environment)
        if runner == "drawbar":
            argv = [sys.executable, "-m", "drawbar_snakemake.command", "--cores", "2"]
            argv += ["--backend", "slurm"] if slurm else []
        elif runner == "snakemake":
            argv = [sys.executable, "-m", "snakemake", "--cores", "2"]
        else:
            environment["PYTHONPATH"] = str(cluster_generic())
            argv = [sys.executable, "-m", "snakemake", "--executor", "cluster-generic"]
            if slurm:
                argv += ["--jobs", "1000", "--cluster-generic-submit-cmd", SBATCH]
            else:
                argv += ["--jobs", "4", "--cluster-generic-submit-cmd", str(self.submit)]
                argv += ["--seconds-between-status-checks", "1"]
        return measured(argv, directory, environment)


def cluster_generic() -> Path:
    """The remote executor, in a directory of its own, since Snakemake loads every plugin that it sees."""
    place = BUILD / PLUGIN
    if not place.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), PLUGIN]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return place


def compare_on_slurm(runners: Runners, jobs: Sequence[int]) -> list[dict[str, Any]]:
    """What both take, here and on the nodes."""
    print(
        f"{'on Slurm':14} {'runner':16} {'CPU s here':>11} {'on nodes':>9} {'wall s':>8} {'ms per job':>11}"
    )
    figures, start = [], {}
    for count in (1, *jobs):
        for runner in ("cluster-generic", "drawbar"):
            began = time.time()
            cost = runners.run(runner, WIDE.format(count=count), slurm=True)
            time.sleep(5)  # until the accounting has heard of the last one
            nodes = on_nodes(began)
            total = cost.cpu_s + nodes
            each = (total - start.setdefault(runner, total)) / max(1, count - 1) * 1000
            workflow = f"{count} jobs"
            figures.append(
                {"workflow": workflow, "runner": f"{runner} on Slurm", **asdict(cost), "nodes_cpu_s": nodes}
            )
            shown = f"{cost.cpu_s:11.2f} {nodes:9.2f} {cost.wall_s:8.2f} {each:11.1f}"
            print(f"{workflow:14} {runner:16} {shown}", flush=True)
    return figures


def bare(jobs: int, directory: Path) -> float:
    """CPU seconds of a job's command alone."""
    text = "set -euo pipefail; echo 1 > out"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(jobs):
        subprocess.run(["bash", "-c", text], cwd=directory, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--more", type=int, nargs="*", default=[], help="so many jobs through drawbar only")
    parser.add_argument("--chain", type=int, default=50, help="0 for none")
    parser.add_argument("--remote", type=int, default=12, help="jobs through cluster-generic; 0 for none")
    parser.add_argument("--slurm", type=int, nargs="*", default=[], help="so many jobs on a Slurm")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    asked = parser.parse_args()
    both = ("snakemake", "drawbar")
    rows = [(f"{count} jobs", runner, count, WIDE) for count in asked.jobs for runner in both]
    rows += [(f"{count} jobs", "drawbar", count, WIDE) for count in asked.more]
    if asked.chain:
        rows += [(f"chain of {asked.chain}", runner, asked.chain, CHAIN) for runner in both]
    if asked.remote:
        rows += [(f"{asked.remote} jobs", "cluster-generic", asked.remote, WIDE)]
        rows += [(f"chain of {REMOTE_CHAIN}", "cluster-generic", REMOTE_CHAIN, CHAIN)]
    figures = []
    with tempfile.TemporaryDirectory(prefix="drawbar-bench-") as temporary:
        runners = Runners(Path(temporary))
        floor = bare(200, Path(temporary)) * 1000
        print(f"the command of a job alone: {floor:.1f} ms")
        print(
            f"{'workflow':14} {'runner':16} {'CPU s':>8} {'wall s':>8} {'ms per job':>11} {'without job':>12}"
        )
        start: dict[str, Cost] = {}
        for name, runner, count, text in rows:
            if runner not in start:
                start[runner] = runners.run(runner, WIDE.format(count=1))
                print(f"{'one job':14} {runner:16} {start[runner].cpu_s:8.2f} {start[runner].wall_s:8.2f}")
            cost = runners.run(runner, text.format(count=count if text is WIDE else count - 1))
            each = (cost.cpu_s - start[runner].cpu_s) / max(1, count - 1) * 1000
            figures.append({"workflow": name, "runner": runner, **asdict(cost), "ms_per_job": each})
            shown = f"{cost.cpu_s:8.2f} {cost.wall_s:8.2f} {each:11.1f} {each - floor:12.1f}"
            print(f"{name:14} {runner:16} {shown}", flush=True)
        if asked.slurm:
            figures += compare_on_slurm(runners, asked.slurm)
    if asked.json:
        asked.json.write_text(json.dumps({"floor_ms": floor, "runs": figures}, indent=1))


if __name__ == "__main__":
    main()
