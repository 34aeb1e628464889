"""Docker: wall time per trivial job in a container, beside `docker run` in a loop and cwltool with docker.

    eval "$(tests/clusters/docker env)"
    python -m benchmarks.docker [--jobs 40] [--rounds 3] [--record]

Each runs `true` in the image alpine:latest so many times: `docker run --rm` one after another, and as many
at once as there are cores; one scattered CWL step by cwltool, and by drawbar. The time of a single job is
taken off, so that what is left is the cost of a job and not that of starting. Rounds are taken in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

IMAGE = "alpine:latest"
RECORD = Path(__file__).resolve().parent.parent / "docs" / "results" / "docker-benchmark.md"
WORKFLOW = {
    "cwlVersion": "v1.2",
    "class": "Workflow",
    "requirements": {"ScatterFeatureRequirement": {}},
    "inputs": {"words": "string[]"},
    "outputs": {},
    "steps": {
        "one": {
            "run": {
                "class": "CommandLineTool",
                "requirements": {"DockerRequirement": {"dockerPull": IMAGE}},
                "baseCommand": "true",
                "inputs": {"word": {"type": "string", "inputBinding": {}}},
                "outputs": [],
            },
            "scatter": "word",
            "in": {"word": "words"},
            "out": [],
        }
    },
}


def loop(jobs: int, at_once: int) -> None:
    words = "\n".join(map(str, range(jobs)))
    command = [
        "xargs",
        "-P",
        str(at_once),
        "-n",
        "1",
        "docker",
        "run",
        "--rm",
        "--network=none",
        IMAGE,
        "true",
    ]
    subprocess.run(command, input=words, text=True, check=True, stdout=subprocess.DEVNULL)


def cwl(runner: Sequence[str], jobs: int, directory: Path) -> None:
    inputs = directory / f"{jobs}.json"
    inputs.write_text(json.dumps({"words": list(map(str, range(jobs)))}))
    with tempfile.TemporaryDirectory(dir=directory) as home:
        subprocess.run(
            [*runner, "--quiet", "--outdir", f"{home}/out", str(directory / "flow.cwl"), str(inputs)],
            check=True,
            cwd=directory,
            env={**os.environ, "DRAWBAR_HOME": home},
            stdout=subprocess.DEVNULL,
        )


def cwltool(*options: str) -> Callable[[int, Path], None]:
    runner = [sys.executable, "-m", "cwltool", "--disable-pull", *options]
    return lambda jobs, directory: cwl(runner, jobs, directory)


def drawbar(jobs: int, directory: Path) -> None:
    cwl([sys.executable, "-m", "drawbar_cwl.runner", "--backend", "docker"], jobs, directory)


RUNNERS: dict[str, Callable[[int, Path], None]] = {
    "`docker run` in a loop": lambda jobs, _: loop(jobs, 1),
    "`docker run`, one for each core": lambda jobs, _: loop(jobs, os.cpu_count() or 1),
    "cwltool": cwltool(),
    "cwltool --parallel": cwltool("--parallel"),
    "drawbar": drawbar,
}


def seconds(runner: str, jobs: int, directory: Path) -> float:
    began = time.monotonic()
    RUNNERS[runner](jobs, directory)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help=f"write docs/results/{RECORD.name}")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    single: dict[str, list[float]] = {name: [] for name in RUNNERS}
    many: dict[str, list[float]] = {name: [] for name in RUNNERS}
    with tempfile.TemporaryDirectory(prefix="bench-docker-") as name:
        directory = Path(name)
        (directory / "flow.cwl").write_text(json.dumps(WORKFLOW))
        for _ in range(options.rounds):
            for runner in RUNNERS:
                single[runner].append(seconds(runner, 1, directory))
                many[runner].append(seconds(runner, options.jobs, directory))
                print(f"{runner}: {single[runner][-1]:.2f} s, {many[runner][-1]:.2f} s", flush=True)
    ones, alls = ({name: statistics.median(each) for name, each in table.items()} for table in (single, many))
    each = {name: (alls[name] - ones[name]) / (options.jobs - 1) for name in RUNNERS}
    lines = [
        f"| runner | one job, s | {options.jobs} jobs, s | each further job, ms | beside drawbar's |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {ones[name]:.2f} | {alls[name]:.2f} | {1000 * each[name]:.0f} "
            f"| {each[name] / each['drawbar']:.1f} |"
            for name in RUNNERS
        ),
    ]
    print("\n".join(lines))
    if options.record:
        server = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            check=True,
        )
        told = (
            f"`python -m benchmarks.docker --record`, {date.today().isoformat()}: "
            f"drawbar {version('drawbar')}, cwltool {version('cwltool')}, engine {server.stdout.strip()}, "
            f"Python {platform.python_version()}, {platform.system()} {platform.release()}, "
            f"{os.cpu_count()} cores, load average {load:.1f} at the start. "
            f"Medians of {options.rounds} rounds, in turns."
        )
        about = " ".join(" ".join(__doc__.split("\n\n")[2:]).split())
        RECORD.write_text("\n".join(["# Jobs in containers, measured", "", told, "", about, "", *lines, ""]))


if __name__ == "__main__":
    main()
