"""The job model: what an engine asks for, what a backend executes, and what came of it.

Units are in the names. All types are frozen; constructors check what always holds. The JSON form
of each is given by `drawbar.codec` and described by `schema/*.schema.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class JobState(StrEnum):
    """Where an attempt of a job is. What the backend itself calls it is kept beside it as text."""

    CREATED = "created"  # the engine asked for it; nothing has happened
    QUEUED = "queued"  # waits in drawbar for a place
    SUBMITTED = "submitted"  # handed to the backend, perhaps waiting there
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether an attempt in this state has ended."""
        return not TRANSITIONS[self]


_ENDS = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.CREATED: frozenset({JobState.QUEUED, JobState.SUBMITTED, JobState.RUNNING}) | _ENDS,
        JobState.QUEUED: frozenset({JobState.SUBMITTED, JobState.RUNNING}) | _ENDS,
        JobState.SUBMITTED: frozenset({JobState.RUNNING}) | _ENDS,
        JobState.RUNNING: _ENDS,
        JobState.FINISHED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
    }
)
"""Legal next states: states may be skipped, never gone back to, within one attempt."""


class Reason(StrEnum):
    """Why an attempt did not succeed."""

    EXIT_CODE = "exit-code"  # the command ended with a code that is not a success
    TEMPORARY = "temporary"  # ... with a code that the specification calls temporary
    TIMEOUT = "timeout"  # it ran longer than its wall time
    OUT_OF_MEMORY = "out-of-memory"  # said only with proof: a cgroup event, the scheduler's word
    KILLED = "killed"  # by a signal that drawbar did not send
    EVICTED = "evicted"  # preempted by its backend
    NODE_LOST = "node-lost"  # the machine it ran on went away
    LOST = "lost"  # proven to be gone, without a record of its end
    HELD = "held"  # the scheduler holds it and says why
    UNSCHEDULABLE = "unschedulable"  # waited too long for a place that may not exist
    IMAGE = "image"  # its container image cannot be had
    REJECTED = "rejected"  # the backend refused to take it
    MISSING_OUTPUT = "missing-output"  # a declared output was not there in time
    COLLECTION = "collection"  # the engine could not collect its outputs
    CANCELLED = "cancelled"  # somebody asked for it to be stopped


INFRASTRUCTURE = frozenset({Reason.EVICTED, Reason.NODE_LOST, Reason.LOST})
"""Reasons that are nobody's command's fault; such attempts are repeated unnoticed."""


class RunState(StrEnum):
    """Where a run is. A run whose driver is gone is shown as interrupted, which is no state of its own."""

    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended; `resume` may still open a failed or stopped one again."""
        return self in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED)


RUN_TRANSITIONS: Mapping[RunState, frozenset[RunState]] = MappingProxyType(
    {
        RunState.CREATED: frozenset({RunState.QUEUED, RunState.RUNNING, RunState.FAILED, RunState.STOPPED}),
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.FAILED, RunState.STOPPED}),
        RunState.RUNNING: frozenset({RunState.FINISHED, RunState.FAILED, RunState.STOPPED}),
        RunState.FINISHED: frozenset({RunState.RUNNING}),
        RunState.FAILED: frozenset({RunState.RUNNING}),
        RunState.STOPPED: frozenset({RunState.RUNNING}),
    }
)
"""Legal next states; an ended run goes back to running when it is resumed."""


class Keep(StrEnum):
    """What of a run's workspace stays after the run."""

    ALL = "all"
    OUTPUTS = "outputs"
    NONE = "none"


class WorkspaceNeed(StrEnum):
    """What of the workspace a job needs to see where it runs."""

    SHARED = "shared"  # the whole workspace, at its own path
    DECLARED = "declared"  # its inputs, its writable mounts and its directory; its collection root comes back
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for; None means no wish. A limit is what ends the job when it is passed."""

    cpus: float = 1
    memory_mib: int | None = None
    memory_limit_mib: int | None = None
    disk_mib: int | None = None
    gpus: int = 0
    walltime_s: float | None = None

    def __post_init__(self) -> None:
        if not self.cpus > 0:
            raise ValueError(f"cpus must be positive, not {self.cpus}")
        if self.gpus < 0:
            raise ValueError(f"gpus must not be negative, but is {self.gpus}")
        for name in ("memory_mib", "memory_limit_mib", "disk_mib", "walltime_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often an attempt is repeated, by reason; the command's own failures are the user's."""

    infrastructure: int = 3
    temporary: int = 0
    out_of_memory: int = 0
    memory_factor: float = 2.0
    """What the memory request and limit are multiplied with after each out-of-memory."""

    def __post_init__(self) -> None:
        if min(self.infrastructure, self.temporary, self.out_of_memory) < 0 or self.memory_factor < 1:
            raise ValueError("retry counts must not be negative, and memory_factor at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A directory or file of the host, `source`, seen by the job at `target`."""

    source: str
    target: str
    read_only: bool = False

    def __post_init__(self) -> None:
        _absolute(source=self.source, target=self.target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A file or directory that a job reads; `name` is how the canonical form calls it.

    Its content is part of the key. `path` is where it is, and is not.
    """

    path: str
    name: str

    def __post_init__(self) -> None:
        _absolute(path=self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One command to execute somewhere.

    `identity` is unique in the run and stable over replays: the engine's own path to this job
    (a CWL step path with its scatter index, a rule with its wildcards, step and command number).
    `canonical` is what determines the result, with every path that differs between runs replaced by
    a placeholder; with the contents of `inputs` and the image it gives the job's key. Resources,
    backend and hints are no part of it.

    `try_number` counts repetitions that the *engine* decides on (Snakemake's `retries:`); each is a
    job of its own, and a failed one is remembered once the next exists, so that a replay walks the
    same way.

    `outputs` are files and directories that the command makes; what is left of them is removed
    before an attempt. With `undeclared_outputs` the job may change anything in the workspace: its
    outputs are what it changed, and such jobs of one run must follow one another.
    """

    identity: str
    name: str
    step: str
    argv: tuple[str, ...]
    directory: str
    canonical: Any
    try_number: int = 1
    image: str | None = None
    image_required: bool = False
    entry_point: bool = False
    """The image's entry point, where it has one, goes before `argv`; else it is left out."""
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    inputs: tuple[Input, ...] = ()
    outputs: tuple[str, ...] = ()
    undeclared_outputs: bool = False
    collection_root: str | None = None
    resources: Resources = Resources()
    network: bool = True
    workspace: WorkspaceNeed = WorkspaceNeed.SHARED
    success_codes: tuple[int, ...] = (0,)
    temporary_codes: tuple[int, ...] = ()
    retry: RetryPolicy | None = None
    """None: as the settings say."""
    hints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    backend: str | None = None
    reusable: bool = True

    def __post_init__(self) -> None:
        if not self.identity or not self.argv:
            raise ValueError("a job needs an identity and a command")
        if self.try_number < 1:
            raise ValueError("try_number counts from 1")
        names = (self.identity, self.name, self.step, *self.argv)
        if "\0" in "".join((*names, *self.environment, *self.environment.values())):
            raise ValueError(f"job {self.identity}: a NUL character cannot be passed to a command")
        if any("=" in name or not name for name in self.environment):
            raise ValueError(f"job {self.identity}: an environment variable needs a name without '='")
        _absolute(directory=self.directory, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr)
        for path in self.outputs:
            _absolute(outputs=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What came of one attempt. `reason` is None exactly when it succeeded.

    Times are seconds since the epoch, on the clock of the machine that ran the job. What is not
    known is None; nothing here is a guess.
    """

    exit_code: int | None = None
    reason: Reason | None = None
    message: str = ""
    started: float | None = None
    finished: float | None = None
    cpu_s: float | None = None
    peak_memory_mib: float | None = None
    host: str | None = None
    native_id: str | None = None
    image_digest: str | None = None
    """The image that it ran in."""
    stdout: str | None = None
    stderr: str | None = None

    def __post_init__(self) -> None:
        if self.reason is None and self.exit_code is None:
            raise ValueError("a successful result has an exit code")

    @property
    def ok(self) -> bool:
        """Whether the command succeeded; the engine may still reject what it left behind."""
        return self.reason is None

    @property
    def state(self) -> JobState:
        """The state of an attempt with this result."""
        if self.ok:
            return JobState.FINISHED
        return JobState.CANCELLED if self.reason is Reason.CANCELLED else JobState.FAILED


def judge(spec: JobSpec, exit_code: int) -> Reason | None:
    """The reason that an exit code stands for, or None for a success."""
    if exit_code in spec.success_codes:
        return None
    return Reason.TEMPORARY if exit_code in spec.temporary_codes else Reason.EXIT_CODE


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file or directory as a job left it. `path` is relative to `root` of its `Outputs`.

    `kind` is file, directory or link. A directory's digest is that of its sorted entries (path, type,
    executable bit, content), or empty when its entries have records of their own; a link's digest is
    that of the text it leads to.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str
    kind: str = "file"
    executable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a run yields: files by path relative to the workspace, and the engine's own output value."""

    files: tuple[str, ...] = ()
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What was asked for when a run was made; it does not change afterwards.

    `source` is the analysis as the user wrote it, `definition` the run's own copy of it; both are
    directories, `document` is the path of the analysis file inside them, and `fragment` the part of it
    that is meant, behind a `#`.
    """

    id: str
    name: str
    engine: str
    source: str
    document: str
    workspace: str
    created: float
    fragment: str | None = None
    in_place: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parameters_file: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    container: str | None = None
    until: str | None = None
    allow_missing_outputs: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        _absolute(source=self.source, workspace=self.workspace)


def _absolute(**paths: str | None) -> None:
    for name, path in paths.items():
        if path is not None and (not path.startswith("/") or "\0" in path):
            raise ValueError(f"{name} must be an absolute path, not {path!r}")
