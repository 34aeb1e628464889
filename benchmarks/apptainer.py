"""Apptainer: what an image costs a local job, beside a plain local job and `apptainer exec` in a loop.

    python -m benchmarks.apptainer IMAGE [--jobs 40]

All run `/bin/true`. One at a time is the cost of a job, two at a time what two cores make of it. CPU
seconds are those of the job, with the program that makes its container. Needs apptainer on PATH.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from drawbar.runtime import Runtime
from drawbar.testing.driver import Driver
from drawbar_local.backend import LocalBackend

ROUNDS = 3
Measured = tuple[float, float]


def loop(image: str, jobs: int, at_once: int) -> Measured:
    """Wall and CPU seconds per job of the program alone, with the options that drawbar gives."""
    command = ["apptainer", "--silent", "exec", "--containall", image, "/bin/true"]
    before, began = os.times(), time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(jobs):
        if len(running) == at_once:
            running.pop(0).wait()
        running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
    for process in running:
        process.wait()
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return (time.monotonic() - began) / jobs, cpu / jobs


def local(image: str | None, jobs: int, at_once: int) -> Measured:
    """The same of the local backend, from the submit to the event of the end."""

    def backend() -> LocalBackend:
        made = LocalBackend(LocalBackend.Options())
        made.runtime = None if image is None else Runtime(program="apptainer")
        return made

    with tempfile.TemporaryDirectory(prefix="bench-apptainer-") as name:
        driver = Driver(backend, Path(name).resolve(), patience_s=120, image=image).open()
        try:
            driver.end(_submit(driver))  # starts the supervisor
            began, cpu, running = time.monotonic(), 0.0, []
            for number in range(jobs + at_once):
                if number >= at_once:
                    attempt = running.pop(0)
                    cpu += driver.end(attempt).cpu_s or 0.0
                    driver.call(driver.backend.forget, (attempt,))
                if number < jobs:
                    running.append(_submit(driver))
            return (time.monotonic() - began) / jobs, cpu / jobs
        finally:
            driver.clean_up()


def _submit(driver: Driver):
    attempt = driver.attempt("/bin/true")
    driver.run(attempt)
    return attempt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", help="a .sif file or an unpacked directory, as an absolute path")
    parser.add_argument("--jobs", type=int, default=40)
    options = parser.parse_args()
    image, jobs = options.image, options.jobs
    ways: dict[str, Callable[[int], Measured]] = {
        "plain local job": lambda at_once: local(None, jobs, at_once),
        "`apptainer exec` in a loop": lambda at_once: loop(image, jobs, at_once),
        "local job in the image": lambda at_once: local(image, jobs, at_once),
    }
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    print("| what | at once | wall ms per job | CPU ms per job |\n|---|---|---|---|")
    for at_once in (1, 2):
        found: dict[str, list[Measured]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, measure in ways.items():
                found[way].append(measure(at_once))
        for way, rounds in found.items():
            wall, cpu = (1000 * median(each[index] for each in rounds) for index in (0, 1))
            print(f"| {way} | {at_once} | {wall:.0f} | {cpu:.0f} |", flush=True)


if __name__ == "__main__":
    main()
