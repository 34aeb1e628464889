"""What is different about a job that runs in its image: its command, and the room that it has."""

from __future__ import annotations

import contextlib
from pathlib import Path

from drawbar import mounts
from drawbar.backend import Attempt
from drawbar.errors import InfrastructureError
from drawbar.model import Keep
from drawbar.publish import discard
from drawbar.runtime import Runtime

from drawbar_local import processes


def command(attempt: Attempt, runtime: Runtime, tag: str) -> Attempt:
    """The attempt as a command of this machine, with the job's tag inside as outside.

    Makes the job's scratch directory. Raises ValueError for what cannot be run so, and OSError when
    the directory cannot be made; then there is none.
    """
    if problem := mounts.refusal(attempt, runtime.shared):
        raise ValueError(problem)
    scratch = scratch_of(attempt)
    wrapped = runtime.wrap(attempt, inside={processes.TAG: tag}, scratch=str(scratch))
    scratch.mkdir(parents=True, exist_ok=True)
    return wrapped


def scratch_of(attempt: Attempt) -> Path:
    """Where a job in an image has its /tmp and its home, until its end is durable."""
    return Path(f"{attempt.record}.scratch")


def used(attempt: Attempt) -> bool:
    """Whether an attempt whose end is not durable yet was run in its image."""
    return attempt.spec.image is not None and scratch_of(attempt).exists()


def clear(attempt: Attempt) -> None:
    """Remove the scratch directory, if there is one."""
    if not used(attempt):
        return
    with contextlib.suppress(OSError, InfrastructureError):  # it costs room, and no result
        discard(scratch_of(attempt), Keep.NONE)
