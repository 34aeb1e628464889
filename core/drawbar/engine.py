"""The contract of a workflow engine, for its authors.

An engine is a class with two methods to write, `inspect` and `execute`. Both are plain blocking
code and run in a process of their own (the engine process), so an engine library may change
directory, keep global state and be imported at leisure; nothing here may be imported by the driver
except the class itself, which must therefore not import its library at module level.

A third party's engine passes `drawbar.testing.EngineContract`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from drawbar.model import JobResult, JobSpec, Outputs, Reason, Resources, WorkspaceNeed
from drawbar.options import Options as BaseOptions


class EngineFeature(StrEnum):
    """What an engine can do beyond running a workflow to its end."""

    UNTIL = "until"  # stops after a named step
    INSPECT_WITHOUT_EXECUTION = "inspect-without-execution"  # `inspect` runs nothing from the specification
    LAZY_STEPS = "lazy-steps"  # some steps are known only while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A workflow to inspect or execute.

    `root` is the directory of the analysis (of the run's workspace, when executing), `file` the
    workflow file inside it, if it has one, and `specification` an inline one. `parameters` are
    merged from the analysis, the parameter file and the command line, later wins. `lines` gives the
    line of a place in the analysis file, by pointer, for error messages.
    """

    root: Path
    document: Path
    file: Path | None = None
    fragment: str | None = None
    specification: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    until: str | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    """Input files and directories that the analysis declares, relative to `root`."""
    definition: Path | None = None
    """Where the declared files are as the analysis gives them, when jobs may change those in `root`."""
    allow_execution: bool = True
    """False under `validate --no-exec`: nothing from the specification may be run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """A step as far as it is known before the run. `commands` are expanded where that is possible."""

    name: str
    image: str | None = None
    image_required: bool = False
    library: str | None = None
    """What its jobs need where they run besides their command: the engine's own library and its version."""
    commands: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    resources: Resources = Resources()
    hints: Mapping[str, Any] = field(default_factory=dict)
    workspace: WorkspaceNeed = WorkspaceNeed.SHARED
    jobs: int | None = 1
    """How many jobs it yields; None when only the run will tell, 0 when the engine does the work itself."""
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowInfo:
    """What `inspect` found. `warnings` are problems that do not stop a run."""

    steps: tuple[StepInfo, ...] = ()
    parameters: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """The workflow's own files, relative to the analysis."""
    warnings: tuple[str, ...] = ()

    def from_step(self, name: str) -> set[str]:
        """The names of a step and of all that depend on it."""
        found = {name}
        while more := {each.name for each in self.steps if found.intersection(each.depends_on)} - found:
            found |= more
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a job will run. `container` says whether its image is used, or the job runs without one."""

    backend: str
    container: bool = False
    image: str | None = None
    """The image as site policy resolves it."""
    image_digest: str | None = None
    """Which image that is now, where the backend can tell."""
    resources: Resources = Resources()
    """What was asked for, with what the hints change in it."""
    interpreter: str | None = None
    """The Python on the backend's workers that has the `library` asked for, where settings name one."""
    hints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The hints that this backend understands, keyed by its name, as `JobSpec.hints` wants them."""


class Lookup(StrEnum):
    """What the store knows of a job."""

    HIT = "hit"  # ended before with this key, and its outputs are still as recorded
    RUNNING = "running"  # an earlier attempt is alive, or not proven dead: its result will come
    MISS = "miss"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """An engine's hold on a job it asked for. `result` and `value` are set on a hit only.

    A hit may be a failure: a `try_number` that failed before the engine repeated it.
    """

    identity: str
    found: Lookup
    result: JobResult | None = None
    value: Any = None
    """What the engine gave to `accept` when the job ended."""
    why: str = ""
    """For a miss: which part of the key changed, or why the earlier result does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """An attempt has ended. When `result.ok`, the engine collects its outputs and accepts or rejects it."""

    ticket: Ticket
    result: JobResult


class JobClient(Protocol):
    """What an engine is given to run jobs with. For use from the engine's one thread, but `interrupt`."""

    run_id: str
    workspace: Path

    def place(
        self,
        *,
        step: str,
        image: str | None = None,
        image_required: bool = False,
        library: str | None = None,
        resources: Resources = Resources(),  # noqa: B008 (frozen)
        hints: Mapping[str, Any] = MappingProxyType({}),
        workspace: WorkspaceNeed = WorkspaceNeed.SHARED,
    ) -> Placement:
        """Where a job with these needs will run.

        `hints` are flat keys as the step gives them, in any backend's spelling; the ones meant for
        other backends are ignored, `compute_backend` asks for a place by name. Equal questions are
        answered from memory. `library` is what the job needs where it runs besides its command, for the
        user to read: the backend's settings say which interpreter or image has it.

        Raises `Unsupported` when no allowed backend can run it.
        """

    def directory(self, identity: str) -> Path:
        """A private directory for the job, the same for every attempt and replay; not created."""

    def key(self, spec: JobSpec) -> str:
        """The digest of what determines the job's result: canonical form, contents of inputs, image.

        For engines whose jobs depend on all that ran before: the key of one job may enter the
        canonical form of the next.
        """

    def lookup(self, specs: Sequence[JobSpec]) -> list[Ticket]:
        """What the store knows of these jobs; changes nothing, anywhere."""

    def submit(
        self, specs: Sequence[JobSpec], prepare: Callable[[JobSpec], None] | None = None
    ) -> list[Ticket]:
        """Ask for jobs to be run; returns at once with one ticket per spec, in order.

        Each spec is looked up first. A hit has its result on the ticket, and nothing else happens.
        For a running one the result comes from `wait`. A miss is prepared, by calling `prepare` in
        this thread (clear and stage files there), and handed over; `prepare` is called again, from
        `wait`, before a later attempt of the same job. No `prepare` is called for a job that is not
        proven dead.
        """

    def wait(self) -> Executed | None:
        """The next job that ended. None when nothing is in flight, or after `interrupt`."""

    def interrupt(self) -> None:
        """Have the `wait` that goes on, or else the next one, return None with jobs in flight.

        The only method that other threads may call: an engine that has work of its own going on
        besides its jobs hears of that work's end in the thread that waits for the jobs.
        """

    def accept(self, ticket: Ticket, outputs: Iterable[Path] | None = None, value: Any = None) -> None:
        """The job's outputs are collected and right: from now on the job is remembered.

        `outputs` are files and directories, recorded as they are now with size, mtime and digest.
        `value` is any JSON value; a later hit returns it. For a spec with `undeclared_outputs`,
        `outputs` stays None, and whatever the job changed in the workspace is recorded.
        """

    def reject(self, ticket: Ticket, message: str, reason: Reason = Reason.COLLECTION) -> None:
        """The command succeeded, but what it left is wrong; the job failed."""

    def consumed(self, paths: Iterable[Path]) -> None:
        """The engine deletes these outputs on purpose; that invalidates nothing."""

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """Ask for jobs in flight to be stopped; their ends still come from `wait`."""

    def log(self, logger: str, level: str, message: str, thread: str = "MainThread") -> None:
        """Add a line to the run's engine log (time | logger | thread | level | message)."""

    def progress(self, total: int | None, done: int | None = None) -> None:
        """How many jobs the workflow has, as far as it is known by now, and how many of them are done.

        Without `done`, those that have ended here are. An engine says it that counts otherwise: jobs that
        it does by itself, or several that are one here.
        """


class Engine(ABC):
    """Understands one workflow language. Subclasses set `name`, `api`, and what differs below."""

    name: ClassVar[str]
    api: ClassVar[int]
    features: ClassVar[frozenset[EngineFeature]] = frozenset()
    Options: ClassVar[type[BaseOptions]] = BaseOptions
    """The engine's operational options (`inputs.options` of an analysis, `-o` on the command line)."""

    @classmethod
    def preload(cls) -> None:
        """Import what `inspect` and `execute` need, so that a warm parent does it once for many runs."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a bare workflow file is in this engine's language. Reads, and executes nothing.

        Every engine is asked; two claims are an error that names both.
        """

    @abstractmethod
    def inspect(self, source: Source) -> WorkflowInfo:
        """Parse and validate only. Raises `SpecError` with every problem found, each with its place."""

    @abstractmethod
    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        """Drive the workflow to its end.

        Called from the top on every start, resume included: jobs that ended before are hits. Raises
        `StepFailed` (drawbar.engine) when a step failed for good, `SpecError` when the
        specification turns out to be wrong.
        """


class StepFailed(Exception):
    """A step failed for good; the run fails with this message."""

    def __init__(self, step: str, message: str, result: JobResult | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.result = result
