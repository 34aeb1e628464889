"""Every error that drawbar raises on purpose.

::

    DrawbarError
    ├── SpecError             the analysis or the workflow is wrong          (exit status 2)
    ├── UsageError            the call is wrong: an option, a name           (2)
    ├── SettingsError         drawbar.toml or a DRAWBAR_ variable is wrong   (2)
    ├── Unsupported           the analysis needs what the place cannot do    (2)
    ├── PluginError           a plugin is unknown, broken or incompatible    (2)
    ├── RunFailed             the analysis failed                            (1)
    └── InfrastructureError   the machine, the store or a backend failed     (3)
        ├── BackendError      a backend could not do what it was asked
        ├── StoreError        the store cannot be read or written
        ├── LeaseError        another driver owns the run
        └── EngineDied        the engine process ended before its workflow did

An error says what is wrong, where, and what to do about it. A problem found in a document is a
`Problem`; a `SpecError` carries all of them, since a user should see every mistake at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum


class Severity(StrEnum):
    """How much a problem matters: an error stops the run, a warning is only shown."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a document, a setting or a site.

    `file` and `line` (counted from 1) say where, `pointer` is the place inside the document
    (`workflow.specification.steps.0`), `hint` says what to do about it.
    """

    message: str
    file: str | None = None
    line: int | None = None
    pointer: str | None = None
    step: str | None = None
    hint: str | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        plural = "s" if self.step and ", " in self.step else ""
        step = f"step{plural} {self.step}: " if self.step else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{place}: {step}{self.message}{hint}" if place else f"{step}{self.message}{hint}"


def by_message(problems: Iterable[Problem]) -> list[Problem]:
    """The same problems, with one for all steps that have it in common."""
    steps: dict[Problem, list[str]] = {}
    for problem in problems:
        steps.setdefault(replace(problem, step=None), []).extend([problem.step] if problem.step else [])
    return [
        replace(problem, step=", ".join(dict.fromkeys(names)) or None) for problem, names in steps.items()
    ]


class DrawbarError(Exception):
    """Base of all errors; `exit_status` is what the command line ends with."""

    exit_status = 2


class SpecError(DrawbarError):
    """An analysis or workflow is wrong; `problems` lists every mistake found, errors first."""

    def __init__(self, problems: Sequence[Problem] | Problem | str) -> None:
        if isinstance(problems, str):
            problems = Problem(message=problems)
        if isinstance(problems, Problem):
            problems = [problems]
        self.problems = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class UsageError(DrawbarError):
    """The call is wrong: an option, a run name, a combination."""


class SettingsError(SpecError):
    """A settings file or a DRAWBAR_ environment variable is wrong."""


class Unsupported(SpecError):
    """The analysis asks for something that the chosen engine or backend cannot do."""


class PluginError(DrawbarError):
    """A plugin is unknown, broken or made for another version of the plugin API."""


class RunFailed(DrawbarError):
    """The analysis ran and failed."""

    exit_status = 1


class InfrastructureError(DrawbarError):
    """Something below the analysis failed: a disk, a store, a backend, a process of drawbar's own."""

    exit_status = 3


class BackendError(InfrastructureError):
    """A backend could not do what it was asked; `transient` when trying again later may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class StoreError(InfrastructureError):
    """The store cannot be read or written; nothing that was acknowledged before is lost.

    `transient` when trying again may help: a full disk, a lock held by somebody else.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class LeaseError(InfrastructureError):
    """Another driver owns the run, or took it over from this one."""


class ThreadDied(InfrastructureError):
    """A thread that the driver depends on died; jobs go on, and a resumed run finds them."""


class EngineDied(InfrastructureError):
    """The engine process ended, or was ended, before its workflow did."""
