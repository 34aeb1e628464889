"""What the driver's side keeps of jobs that a supervisor has, or is asked to take."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from drawbar.backend import Attempt, Submission
from drawbar.runtime import Runtime

from drawbar_local import containers, processes
from drawbar_local.link import Link


class Batch:
    """A submit that waits for its answers."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.answers: dict[str, Submission | None] = {}
        self.complete = threading.Event()
        self._left = len(tags)

    def answer(self, tag: str, answer: Submission | None) -> None:
        """None stands for an attempt that was claimed before."""
        self.answers[tag] = answer
        self._left -= 1
        if not self._left:
            self.complete.set()


class Job:
    """A job that a supervisor has, or is asked to take while there is a `batch`."""

    __slots__ = ("attempt", "batch", "link", "native_id")

    def __init__(self, attempt: Attempt, link: Link, batch: Batch | None = None) -> None:
        self.attempt = attempt
        self.link = link
        self.batch = batch
        self.native_id = ""


def fields(attempt: Attempt, runtime: Runtime | None = None) -> list[Any]:
    """An attempt as a supervisor is told of it (`drawbar_local.supervisor`).

    One that is to run in its image: see `containers.command`, also for errors.
    """
    outer = os.environ.get(processes.TAG)
    tag = f"{outer}{processes.TAG_SEPARATOR}{attempt.tag}" if outer else attempt.tag
    if runtime is not None and attempt.spec.image is not None:
        attempt = containers.command(attempt, runtime, tag)
    spec = attempt.spec
    environment = {**spec.environment, processes.TAG: tag}
    return [
        *(attempt.tag, attempt.record, spec.argv, spec.directory, environment),
        *(spec.stdin, spec.stdout, spec.stderr),
        *(spec.resources.walltime_s, spec.resources.memory_limit_mib),
    ]
