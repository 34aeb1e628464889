"""How a drive of a run ended."""

from __future__ import annotations

from dataclasses import dataclass

from drawbar.errors import DrawbarError
from drawbar.model import Outputs, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveResult:
    """How a drive ended; `state` is None when the driver let go and jobs may be alive."""

    state: RunState | None
    message: str = ""
    exit_status: int = 0
    changes: tuple[str, ...] = ()
    missing_outputs: tuple[str, ...] = ()
    error: DrawbarError | None = None
    """Why the run failed, when it is not for a missing output."""
    outputs: Outputs | None = None
    """What the engine said the run yields, when it came to its end."""
