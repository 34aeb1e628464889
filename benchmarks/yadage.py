"""Controller CPU of a yadage map-reduce: drawbar beside stock yadage, `python -m benchmarks.yadage`.

A map of N jobs (`echo`) and a job that reads all their results. For stock yadage it is the CPU time of its
own process, which drives and executes, without the jobs; for drawbar that of the engine's process, of the
driver, and of the local backend's supervisor, which starts the jobs, without the jobs; the least of three
runs. Start-up is the cost of one map job, and taken off for the cost per job.

Stock yadage does not finish 500 in a quarter of an hour. Its cost there is extrapolated from smaller runs,
twice: by a straight line through 100 and 200, and by the parabola through 20, 100 and 200.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from math import prod
from pathlib import Path

WORKFLOW = """\
stages:
  - name: map
    dependencies: [init]
    scheduler:
      scheduler_type: multistep-stage
      parameters:
        number: {step: init, output: numbers}
        file: '{workdir}/number.txt'
      scatter: {method: zip, parameters: [number]}
      step:
        process: {process_type: string-interpolated-cmd, cmd: 'echo {number} > {file}'}
        environment: {environment_type: localproc-env}
        publisher: {publisher_type: frompar-pub, outputmap: {file: file}}
  - name: reduce
    dependencies: [map]
    scheduler:
      scheduler_type: singlestep-stage
      parameters:
        files: {stages: map, output: file}
        sum: '{workdir}/all.txt'
      step:
        process: {process_type: string-interpolated-cmd, cmd: 'cat {files} > {sum}'}
        environment: {environment_type: localproc-env}
        publisher: {publisher_type: frompar-pub, outputmap: {sum: sum}}
"""
STOCK = """\
import json, logging, sys, time, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
import jsonschema.validators
# Yadage fills in defaults with an extended validator. Newer jsonschema forgets that class at every $ref.
jsonschema.validators.validator_for = lambda schema, default=None: default or jsonschema.Draft4Validator
from yadage.steering_api import steering_ctx
from yadage.utils import setupbackend_fromstring
directory, count, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
arguments = {"workflow": "workflow.yml", "toplevel": directory, "initdata": {"numbers": list(range(count))}}
backend = setupbackend_fromstring(backend, {})
with steering_ctx(directory + "/work", visualize=False, backend=backend, **arguments):
    pass
print(time.process_time())
"""
OURS = """\
import resource
from drawbar.cli import main
from drawbar.enginehost import EngineProcess

def cpu(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime

engine = 0.0

def close(self, close=EngineProcess.close):
    global engine
    before = cpu(resource.RUSAGE_CHILDREN)
    close(self)
    engine += cpu(resource.RUSAGE_CHILDREN) - before

EngineProcess.close = close
try:
    main()
finally:
    print(engine, cpu(resource.RUSAGE_SELF), cpu(resource.RUSAGE_CHILDREN) - engine)
"""
STOCK_LIMIT_S = 900.0
PARTS = ("engine", "driver", "supervisor")


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds: CPU of the engine, of what drives and starts jobs, and wall time."""

    engine: float
    driver: float
    supervisor: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.engine + self.driver + self.supervisor


def drawbar(count: int, directory: Path) -> Cost:
    """One run of drawbar on the local backend."""
    (directory / "reana.yaml").write_text(
        json.dumps(
            {
                "inputs": {"parameters": {"numbers": list(range(count))}},
                "workflow": {"type": "yadage", "file": "workflow.yml"},
                "outputs": {"files": ["reduce/all.txt"]},
            }
        )
    )
    command = [sys.executable, "-c", OURS, "run", str(directory), "--quiet"]
    environment = {**os.environ, "DRAWBAR_HOME": str(directory / "home")}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    wall = time.monotonic() - began
    engine, driver, others = map(float, done.stdout.split()[-3:])
    (manifest,) = directory.glob("home/runs/*/manifest.json")
    jobs = sum(job["cpu_s"] for job in json.loads(manifest.read_text())["jobs"])
    return Cost(engine, driver, others - jobs, wall)


def stock(count: int, directory: Path, backend: str) -> Cost | None:
    """One run of stock yadage."""
    began = time.monotonic()
    command = [sys.executable, "-c", STOCK, str(directory), str(count), backend]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=STOCK_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    return Cost(float(done.stdout.split()[-1]), 0.0, 0.0, time.monotonic() - began)


def measure(name: str, count: int) -> Cost | None:
    """The cost of a number of map jobs, with drawbar or with a backend of stock yadage."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        (directory / "workflow.yml").write_text(WORKFLOW)
        return drawbar(count, directory) if name == "drawbar" else stock(count, directory, name)


def line(points: dict[int, float], at: int) -> float:
    """The straight line through the last two points."""
    (x1, y1), (x2, y2) = sorted(points.items())[-2:]
    return y2 + (y2 - y1) / (x2 - x1) * (at - x2)


def parabola(points: dict[int, float], at: int) -> float:
    """The parabola through the last three points."""
    return sum(
        y * prod((at - other) / (x - other) for other in points if other != x)
        for x, y in sorted(points.items())[-3:]
    )


def main() -> None:
    """Measure and print a table."""
    print(f"{'':18}{'map jobs':>9}{'CPU s':>9}{'CPU ms/job':>12}{'wall s':>8}")
    costs: dict[str, dict[int, float]] = {}
    plan = {
        "drawbar": (1, 20, 100, 500, 1000),
        "foregroundasync": (1, 20, 100, 200),
        "multiproc:2": (1, 20, 100, 200),
    }
    for name, counts in plan.items():
        found = costs[name] = {}
        for count in counts:
            runs = [measure(name, count) for _ in range(3 if name == "drawbar" else 1)]
            finished = [run for run in runs if run is not None]
            if not finished:
                print(f"{name:18}{count:9}{'not finished':>21}")
                continue
            cost = min(finished, key=lambda run: run.cpu)
            found[count] = cost.cpu
            each = (cost.cpu - found[1]) / count * 1000 if count > 1 else 0.0
            parts = ", ".join(f"{part} {getattr(cost, part):.2f}" for part in PARTS)
            parts = f"  ({parts})" if name == "drawbar" else ""
            print(f"{name:18}{count:9}{cost.cpu:9.2f}{each:12.2f}{cost.wall:8.1f}{parts}", flush=True)
    ours = costs["drawbar"]
    for name in ("foregroundasync", "multiproc:2"):
        theirs = costs[name]
        bounds = {
            "measured": (100, theirs[100]),
            "extrapolated, line": (500, line(theirs, 500)),
            "extrapolated, parabola": (500, parabola({n: theirs[n] for n in (20, 100, 200)}, 500)),
        }
        for how, (count, cpu) in bounds.items():
            per_job = (cpu - theirs[1]) / (ours[count] - ours[1])
            text = f"{name:18}{count:9}{cpu:9.2f}  {how}: drawbar takes {cpu / ours[count]:.0f} times less"
            print(f"{text}, per job {per_job:.0f} times")


if __name__ == "__main__":
    main()
