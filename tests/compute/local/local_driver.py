"""A driver to be killed: submits what it is told on its standard input, and reports.

    python local_driver.py DIRECTORY RUNTIME_DIRECTORY [TERMINAL]

Each line on standard input is a JSON list of [number, script]; the answer is a line with the process
id of the supervisor. A TERMINAL becomes the controlling one.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from drawbar.backend import Attempt
from drawbar.model import JobSpec
from drawbar_local.backend import LocalBackend


class Silent:
    def status(self, statuses):
        pass

    def trouble(self, message):
        pass


def attempt(directory: Path, number: int, script: str, *, tries: int = 1, **fields) -> Attempt:
    """The same attempt in every process."""
    fields = {"directory": str(directory), "canonical": None, **fields}
    spec = JobSpec(
        identity=str(number), name=f"job-{number}", step="s", argv=("/bin/sh", "-c", script), **fields
    )
    return Attempt(
        tag=f"db-{directory.name}-{number}-{tries}",
        run="r",
        number=tries,
        record=str(directory / "records" / f"{number}-{tries}"),
        workspace=str(directory),
        spec=spec,
    )


def main() -> None:
    directory, runtime = Path(sys.argv[1]), sys.argv[2]
    if len(sys.argv) > 3:
        os.open(sys.argv[3], os.O_RDWR)  # a session leader gets it as its terminal
    backend = LocalBackend(LocalBackend.Options(runtime_directory=runtime, grace_s=0.5))
    backend.start(Silent())
    for line in sys.stdin:
        backend.submit([attempt(directory, number, script) for number, script in json.loads(line)])
        print(backend._own.child, flush=True)


if __name__ == "__main__":
    main()
