"""A job on its way through an engine."""

from __future__ import annotations

from enum import Enum

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobState

from drawbar_docker import results
from drawbar_docker.records import Stop


class Phase(Enum):
    """How far a job is."""

    QUEUED = "waits for its image"
    LAUNCHING = "launching"
    STALLED = "the engine did not answer"
    RUNNING = "running"
    FORGOTTEN = "forgotten by the engine"


class Job:
    """A job that has not ended. Changed under the backend's lock; `looks` counts who looks for its end."""

    __slots__ = ("attempt", "container", "looks", "phase", "reimaged", "stop")

    def __init__(self, attempt: Attempt, phase: Phase = Phase.QUEUED, container: str | None = None) -> None:
        self.attempt = attempt
        self.phase = phase
        self.container = container
        self.stop: Stop | None = None
        self.reimaged = False
        self.looks = 0

    @property
    def tag(self) -> str:
        """The attempt's tag."""
        return self.attempt.tag

    @property
    def status(self) -> JobStatus:
        """What is told of it."""
        state = JobState.RUNNING if self.phase in (Phase.RUNNING, Phase.FORGOTTEN) else JobState.SUBMITTED
        return results.alive(self.tag, state, self.phase.value, self.container)
