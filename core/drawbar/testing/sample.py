"""Sample workflows for the kit, and what came of executing one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from drawbar.engine import Engine, Source, StepFailed
from drawbar.model import Outputs
from drawbar.testing.memory import Call, MemoryJobs

KILL_POINTS = ("submit", "accept")
"""Calls of the job client at which `drive` can let the engine process die."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A tiny workflow in the engine's language.

    `files` are written into an empty directory, from which it is inspected and executed. `outputs`
    are files that it makes there, with their content (None: any). For a workflow that goes wrong,
    `step` is the step that fails, or `problem` a part of the message and `line` its place.
    """

    files: Mapping[str, str]
    file: str | None = None
    fragment: str | None = None
    specification: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, str | None] = field(default_factory=dict)
    step: str | None = None
    problem: str | None = None
    line: int | None = None

    def write(self, root: Path, **changes: Any) -> Source:
        """The sample's files in `root`, as a `Source` with `changes`."""
        root.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_text() != text:
                path.write_text(text)
        file = None if self.file is None else root / self.file
        arguments = {
            "root": root,
            "document": file or root / "reana.yaml",
            "file": file,
            "fragment": self.fragment,
            "specification": self.specification,
            "parameters": self.parameters,
            "options": self.options,
            "declared": self.declared,
            "lines": self.lines,
        }
        return Source(**{**arguments, **changes})


@dataclass(slots=True)
class Outcome:
    """How an engine's `execute` ended: it returned, raised StepFailed or another error, or was killed."""

    jobs: MemoryJobs
    step: str | None = None
    failure: str | None = None
    error: str | None = None
    killed: bool = False

    def finished(self) -> MemoryJobs:
        """The client of an execution that must have come to a good end."""
        assert self.failure is None, f"execute should have succeeded, but step {self.step}: {self.failure}"
        return self._kept_to_the_protocol()

    def broke(self) -> MemoryJobs:
        """The client of an execution in which a step must have failed."""
        jobs = self._kept_to_the_protocol()
        assert self.step is not None, "execute returned as if nothing had failed; it must raise StepFailed"
        return jobs

    def _kept_to_the_protocol(self) -> MemoryJobs:
        assert not self.jobs.violations, "; ".join(self.jobs.violations)
        assert self.error is None, f"execute raised: {self.error}"
        assert not self.killed
        return self.jobs


def drive(
    engine: Engine,
    source: Source,
    jobs: MemoryJobs,
    kill_at: int | None,
    leave: Callable[[Outcome], NoReturn],
) -> Outcome:
    """Execute a workflow, and `leave` at a call numbered `kill_at` of KILL_POINTS, before it takes effect."""
    outcome = Outcome(jobs)
    calls = 0

    def die(call: Call) -> None:
        nonlocal calls
        if call.method in KILL_POINTS:
            if calls == kill_at:
                outcome.killed, jobs.on_call = True, None
                leave(outcome)
            calls += 1

    jobs.on_call = die
    try:
        outputs = engine.execute(source, jobs)
        assert isinstance(outputs, Outputs), f"execute returns Outputs, not {type(outputs).__name__}"
    except StepFailed as failure:
        outcome.step, outcome.failure = failure.step, str(failure)
    except Exception:
        outcome.error = traceback.format_exc()
    jobs.on_call = None
    return outcome
