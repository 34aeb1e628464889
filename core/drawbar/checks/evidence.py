"""What a run offers to be tested, and how a check says that it does not hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol


class Evidence(Protocol):
    """What a run offers to be tested.

    Logs are given as files, so that large ones are searched without being held in memory; a file
    that does not exist counts as empty.
    """

    @property
    def state(self) -> str:
        """The state of the run, as `RunState` spells it."""

    @property
    def outputs(self) -> Sequence[str]:
        """The declared outputs, files and directories, relative to the workspace."""

    @property
    def workspace(self) -> Path:
        """The workspace, as an absolute path."""

    @property
    def started(self) -> float | None:
        """When the run started, in seconds since the epoch; None when it has not."""

    @property
    def finished(self) -> float | None:
        """When the run ended, in seconds since the epoch; None when it has not."""

    def engine_log(self) -> Sequence[Path]:
        """The files of the engine log."""

    def job_logs(self, step: str | None = None) -> Sequence[Path]:
        """The output files of the jobs of a step, or of all jobs; empty for an unknown step."""

    def step_times(self, step: str) -> tuple[float, float] | None:
        """When the step's first job started and its last one ended; None unless both are known."""


class Failed(Exception):
    """An expectation is not met; the message names what was expected and what was found."""


class NotApplicable(Exception):
    """A condition does not hold, so the scenario does not apply to this run."""


Check = Callable[[Evidence], None]
"""Returns when all is well; raises `Failed` (expectations) or `NotApplicable` (conditions)."""
