"""The hooks that a plugin may implement, with `from drawbar import hookimpl`.

Hooks register and observe; what an engine or a backend does is in its class. An implementation may
leave out arguments that it does not need, so that hooks can grow without breaking anyone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from drawbar.backend import Backend
    from drawbar.engine import Engine
    from drawbar.model import JobState, Reason, Resources, RunState

PROJECT = "drawbar"
"""The entry-point group of plugins, and the prefix of every hook."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A run, or one of its jobs, came to a new state. `time` is in seconds since the epoch.

    For a job, `identity`, `step`, `attempt` and `backend` say which; for the run they are None.
    """

    run: str
    time: float
    state: RunState | JobState
    identity: str | None = None
    step: str | None = None
    attempt: int | None = None
    backend: str | None = None
    reason: Reason | None = None
    message: str = ""


@hookspec
def drawbar_register_engines() -> Iterable[type[Engine]]:  # type: ignore[empty-body]
    """The engine classes of this plugin; must not import an engine's library."""


@hookspec
def drawbar_register_backends() -> Iterable[type[Backend]]:  # type: ignore[empty-body]
    """The backend classes of this plugin; must not contact anything."""


@hookspec(firstresult=True)
def drawbar_place(
    step: str, image: str | None, resources: Resources, hints: Mapping[str, Any], backends: Sequence[str]
) -> str | None:
    """Site policy: the one of `backends`, which all can run the job, that shall; None for no opinion."""


@hookspec
def drawbar_event(event: Event) -> None:
    """Observe a run from the driver; must return quickly. An exception is recorded and stops nothing."""
