"""What the driver's side keeps of jobs that a supervisor has, or is asked to take."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

from drawbar.backend import Attempt, Submission

from drawbar_local import processes
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


def fields(attempt: Attempt) -> list[Any]:
    """An attempt as a supervisor is told of it (`drawbar_local.supervisor`)."""
    spec = attempt.spec
    environment = dict(spec.environment)
    outer = os.environ.get(processes.TAG)
    environment[processes.TAG] = f"{outer}{processes.TAG_SEPARATOR}{attempt.tag}" if outer else attempt.tag
    return [
        *(attempt.tag, attempt.record, spec.argv, spec.directory, environment),
        *(spec.stdin, spec.stdout, spec.stderr),
        *(spec.resources.walltime_s, spec.resources.memory_limit_mib),
    ]
