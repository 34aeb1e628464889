"""Controller CPU of a yadage map-reduce: drawbar beside stock yadage, `python -m benchmarks.yadage`.

A map of N jobs (`echo`) and a job that reads all their results. For stock yadage it is the CPU time of its
own process, which drives and executes, without the jobs; for drawbar that of the driver and of the engine's
process. Start-up is the cost of one map job, and taken off for the cost per job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
import resource, sys
from drawbar.cli import main
try:
    main()
finally:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        print(usage.ru_utime + usage.ru_stime)
"""
STOCK_LIMIT_S = 900.0


@dataclass(frozen=True)
class Cost:
    """What one run took, in seconds: CPU of the engine, of what drives jobs, and wall time."""

    engine: float
    driver: float
    wall: float

    @property
    def cpu(self) -> float:
        return self.engine + self.driver


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
    driver, engine = map(float, done.stdout.split()[-2:])
    return Cost(engine, driver, time.monotonic() - began)


def stock(count: int, directory: Path, backend: str) -> Cost | None:
    """One run of stock yadage."""
    began = time.monotonic()
    command = [sys.executable, "-c", STOCK, str(directory), str(count), backend]
    try:
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=STOCK_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None
    return Cost(float(done.stdout.split()[-1]), 0.0, time.monotonic() - began)


def measure(name: str, counts: tuple[int, ...]) -> Iterator[tuple[int, Cost | None]]:
    """The cost of each number of map jobs, with drawbar or with a backend of stock yadage."""
    for count in counts:
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            (directory / "workflow.yml").write_text(WORKFLOW)
            run = drawbar(count, directory) if name == "drawbar" else stock(count, directory, name)
            yield count, run


def main() -> None:
    """Measure and print a table."""
    print(f"{'':24}{'jobs':>6}{'CPU s':>10}{'CPU ms/job':>12}{'wall s':>10}")
    costs: dict[tuple[str, int], float] = {}
    plan = {
        "foregroundasync": (1, 20, 100),
        "multiproc:2": (1, 20, 100),
        "drawbar": (1, 20, 100, 500),
    }
    for name, counts in plan.items():
        for count, cost in measure(name, counts):
            if cost is None:
                print(f"{name:24}{count:6}{'not finished':>22}")
                continue
            costs[name, count] = cost.cpu
            each = (cost.cpu - costs[name, 1]) / count * 1000
            line = f"{name:24}{count:6}{cost.cpu:10.2f}{each:12.2f}{cost.wall:10.1f}"
            print(line + (f"  (engine {cost.engine:.2f}, driver {cost.driver:.2f})" if cost.driver else ""))
    for name in ("foregroundasync", "multiproc:2"):
        if (name, 100) in costs:
            at_500 = costs[name, 100] + (costs[name, 100] - costs[name, 20]) / 80 * 400
            print(f"{name:24}{500:6}{at_500:10.2f}  extrapolated on a line from 20 and 100, so a lower bound")
            for count, theirs in ((100, costs[name, 100]), (500, at_500)):
                ours = costs["drawbar", count]
                less = (theirs - costs[name, 1]) / (ours - costs["drawbar", 1])
                print(f"  drawbar at {count}: {theirs / ours:.0f} times less, {less:.0f} without start-up")


if __name__ == "__main__":
    main()
