"""A driver to be killed: submits what it is told on its standard input, and reports.

    python docker_driver.py DIRECTORY [NETWORK]

Each line on standard input is a JSON list of [number, script], which is answered with a line when the
backend has the jobs, or `wait`, which is when all of them have ended.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from drawbar.backend import Attempt
from drawbar.model import JobSpec
from drawbar_docker.backend import DockerBackend


class Sink:
    def __init__(self):
        self.ends = threading.Semaphore(0)

    def status(self, statuses):
        for status in statuses:
            if status.state.terminal:
                self.ends.release()

    def trouble(self, message):
        print(message, file=sys.stderr, flush=True)


def attempt(directory: Path, number: int, script: str, *, tries: int = 1, **fields) -> Attempt:
    """The same attempt in every process."""
    fields = {"directory": str(directory), "canonical": None, "image": "busybox:latest", **fields}
    spec = JobSpec(
        identity=str(number), name=f"job-{number}", step="s", argv=("/bin/sh", "-c", script), **fields
    )
    return Attempt(
        tag=f"db-{directory.parent.name}-{directory.name}-{number}-{tries}",
        run=directory.parent.name,
        number=tries,
        record=str(directory / "attempts" / f"{number}.1-{tries}"),
        workspace=str(directory),
        spec=spec,
    )


def wait_for(condition, patience_s=60):
    """What `condition` gives, once that is true."""
    end = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return value


def main() -> None:
    directory = Path(sys.argv[1])
    network = sys.argv[2] if len(sys.argv) > 2 else None
    backend = DockerBackend(DockerBackend.Options(grace_s=0.5, network=network))
    sink, count = Sink(), 0
    backend.start(sink)
    for line in sys.stdin:
        if line == "wait\n":
            for _ in range(count):
                sink.ends.acquire()
            backend.close()
            return
        jobs = json.loads(line)
        count += len(jobs)
        backend.submit([attempt(directory, number, script) for number, script in jobs])
        print("submitted", flush=True)


if __name__ == "__main__":
    main()
