"""A job client for tests of engines: jobs run here, one at a time, and are remembered in memory.

    jobs = MemoryJobs(workspace)
    engine.execute(source, jobs)
    assert jobs.submitted == ["0:count.0", "1:plot.0"]
    again = jobs.restarted()
    engine.execute(source, again)
    assert again.submitted == []

It keeps to the protocol of `drawbar.engine.JobClient` and insists that the engine does: a breach
raises `ProtocolViolation` and stays in `violations`, should the engine swallow it. Images are not
used. What ends next among the jobs in flight is drawn with `seed`, so that tests can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from drawbar.engine import Executed, Lookup, Placement, Ticket
from drawbar.identity import canonical_json, difference, digest, directory_name, key_document
from drawbar.model import JobResult, JobSpec, Reason, Resources, WorkspaceNeed
from drawbar.testing.commands import run_command

Name = tuple[str, int]
"""Identity and try number."""


class ProtocolViolation(AssertionError):
    """The engine used its job client in a way that the contract forbids."""


@dataclass(frozen=True, slots=True)
class Call:
    """Something that the engine asked for: a method of the client and the job it was about."""

    method: str
    identity: str = ""


@dataclass(slots=True)
class _Job:
    """What is remembered of a job: from its execution on, and from `accept` on for good."""

    document: dict[str, Any]
    result: JobResult
    accepted: bool = False
    value: Any = None
    outputs: tuple[Path, ...] = ()
    changed: dict[Path, tuple[str, str]] = field(default_factory=dict)


@dataclass(slots=True)
class Memory:
    """What outlives an engine process: the part that a run's store plays."""

    jobs: dict[Name, _Job] = field(default_factory=dict)
    files: dict[Path, str] = field(default_factory=dict)
    """Every recorded output with its digest as a job last left it; empty when it may be gone."""
    originals: dict[Path, str] = field(default_factory=dict)
    """Files that jobs changed in place, with their digest before the first of these jobs."""


class MemoryJobs:
    """A `JobClient` over a workspace directory that exists.

    `container` is what `place` answers. After `stop_after` ended jobs the user cancels: all others end
    cancelled. `on_call` is called with every `Call` before it takes effect. A job that takes longer
    than `job_limit_s` is ended.
    """

    def __init__(
        self,
        workspace: Path,
        *,
        memory: Memory | None = None,
        run_id: str = "test-run",
        seed: int = 0,
        container: bool = False,
        stop_after: int | None = None,
        on_call: Callable[[Call], None] | None = None,
        job_limit_s: float = 60.0,
    ) -> None:
        self.run_id = run_id
        self.workspace = workspace.absolute()
        self.memory = memory or Memory()
        self.container = container
        self.stop_after = stop_after
        self.on_call = on_call
        self.job_limit_s = job_limit_s
        self.calls: list[Call] = []
        """In order; a `wait` is followed by "succeeded" or "failed" with the job that it returned."""
        self.specs: dict[Name, JobSpec] = {}
        """Every spec that was submitted, hits included."""
        self.keys: dict[str, str] = {}
        """The key of every spec that was submitted, by identity."""
        self.submitted: list[str] = []
        """Identities of the jobs that were run, or would have been, in the order of submission."""
        self.executed: list[str] = []
        """Identities of the jobs whose command was run by this client, in the order of their ends."""
        self.log_lines: list[str] = []
        self.progressed: list[tuple[int | None, int | None]] = []
        self.violations: list[str] = []
        self._random = random.Random(seed)  # noqa: S311 (an order, not a secret)
        self._in_flight: dict[Name, Ticket] = {}
        self._cancelled: set[Name] = set()
        self._to_settle: dict[Name, Ticket] = {}
        self._settled: set[Name] = set()
        self._ended = 0
        self._interrupted = False
        self._asked_directories: dict[str, tuple[int, ...]] = {}
        self._looked_up: set[str] = set()

    def restarted(self, **changes: Any) -> MemoryJobs:
        """A new client for a new start of the engine, over the same memory and workspace.

        `changes` are arguments of the constructor. Jobs that were in flight are proven dead.
        """
        arguments = {"run_id": self.run_id, "container": self.container, "job_limit_s": self.job_limit_s}
        return MemoryJobs(self.workspace, memory=self.memory, **{**arguments, **changes})

    def finish(self) -> None:
        """To be called when the engine has returned: nothing may be left in flight or unsettled."""
        if self._in_flight:
            self._breach(f"the engine returned while jobs were in flight: {_names(self._in_flight)}")
        if self._to_settle:
            self._breach(f"executed, but neither accepted nor rejected: {_names(self._to_settle)}")

    # The protocol.

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
        """Always the backend "memory", which understands every hint."""
        self._record("place", step)
        return Placement(
            backend="memory",
            container=self.container,
            image=image,
            resources=resources,
            hints={"memory": dict(hints)} if hints else {},
        )

    def directory(self, identity: str) -> Path:
        """A directory beside the workspace; from here on it may change only once the job is looked up."""
        path = self._private(identity)
        if identity not in self._looked_up:
            self._asked_directories.setdefault(identity, _state(path))
        return path

    def key(self, spec: JobSpec) -> str:
        """The same key as a run's, see `drawbar.identity`."""
        return digest(self._document(spec))

    def lookup(self, specs: Sequence[JobSpec]) -> list[Ticket]:
        """What the memory knows; an executed job that was not accepted is RUNNING."""
        for spec in specs:
            self._record("lookup", spec.identity)
            self._check_untouched(spec)
        return [self._find(spec) for spec in specs]

    def submit(
        self, specs: Sequence[JobSpec], prepare: Callable[[JobSpec], None] | None = None
    ) -> list[Ticket]:
        """Clears and prepares each miss at once; its command is run by `wait`."""
        tickets = []
        for spec in specs:
            self._record("submit", spec.identity)
            name = (spec.identity, spec.try_number)
            if name in self.specs:
                self._breach(
                    f"two jobs with the identity {spec.identity!r}, try {spec.try_number}: an identity is "
                    "unique in the run, and a repetition has the next try_number"
                )
            self._check_untouched(spec)
            self.specs[name] = spec
            self.keys[spec.identity] = self.key(spec)
            ticket = self._find(spec)
            if ticket.found is not Lookup.HIT:
                self._in_flight[name] = ticket
            if ticket.found is Lookup.MISS:
                self.memory.jobs.pop(name, None)
                self.submitted.append(spec.identity)
                self._make_ready(spec, prepare)
            tickets.append(ticket)
        return tickets

    def wait(self) -> Executed | None:
        """Draw a job in flight and run it."""
        self._record("wait")
        if not self._in_flight or self._interrupted:
            self._interrupted = False
            return None
        name = self._random.choice(sorted(self._in_flight))
        ticket, spec = self._in_flight.pop(name), self.specs[name]
        known = self.memory.jobs.get(name)
        if known is not None:
            result = known.result
        elif name in self._cancelled or self.stopped:
            result = JobResult(reason=Reason.CANCELLED, message="the run was stopped")
        else:
            result = self._execute(name, spec)
        self._ended += 1
        self.calls.append(Call("succeeded" if result.ok else "failed", name[0]))
        if result.ok:
            self._to_settle[name] = ticket
        return Executed(ticket=ticket, result=result)

    def interrupt(self) -> None:
        """Let the next `wait` return None; one that goes on runs its job to the end first."""
        self._interrupted = True

    def accept(self, ticket: Ticket, outputs: Iterable[Path] | None = None, value: Any = None) -> None:
        """Remember a job that `wait` returned as successful."""
        self._record("accept", ticket.identity)
        name, spec = self._settle("accept", ticket)
        job = self.memory.jobs[name]
        try:
            job.value = json.loads(canonical_json(value))
        except ValueError as error:
            self._breach(f"accept of {ticket.identity}: the value is not JSON: {error}")
        if spec.undeclared_outputs:
            if outputs is not None:
                self._breach(
                    f"accept of {ticket.identity} names outputs, but its spec says undeclared_outputs: "
                    "what the job changed is recorded anyway"
                )
            for path, (before, after) in job.changed.items():
                if before:
                    self.memory.originals.setdefault(path, before)
                self.memory.files[path] = after
            job.outputs = tuple(job.changed)
        else:
            paths = spec.outputs if outputs is None else outputs
            job.outputs = tuple(self._collectable(spec, Path(path)) for path in paths)
            self.memory.files.update({path: content_digest(path) for path in job.outputs})
        job.accepted = True

    def reject(self, ticket: Ticket, message: str, reason: Reason = Reason.COLLECTION) -> None:
        """Let a job that `wait` returned as successful fail."""
        self._record("reject", ticket.identity)
        name, _ = self._settle("reject", ticket)
        self.memory.jobs[name].result = JobResult(exit_code=0, reason=reason, message=message)

    def consumed(self, paths: Iterable[Path]) -> None:
        """These outputs may be gone."""
        for path in paths:
            self._record("consumed", str(path))
            self.memory.files[path.absolute()] = ""

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """Those in flight come from `wait` as cancelled; those that ended stay as they are."""
        for ticket in tickets:
            self._record("cancel", ticket.identity)
            names = [name for name in self.specs if name[0] == ticket.identity]
            if not names:
                self._breach(f"cancel of {ticket.identity!r}, which was never submitted")
            self._cancelled.update(names)

    def log(self, logger: str, level: str, message: str, thread: str = "MainThread") -> None:
        """Add to `log_lines`, without the time."""
        self.log_lines.append(f"{logger} | {thread} | {level} | {message}")

    def progress(self, total: int | None, done: int | None = None) -> None:
        """Add to `progressed`."""
        self.progressed.append((total, done))

    # How it is done.

    @property
    def stopped(self) -> bool:
        """Whether the user has cancelled the run."""
        return self.stop_after is not None and self._ended >= self.stop_after

    def _beside(self, what: str) -> Path:
        return self.workspace.with_name(f"{self.workspace.name}-{what}")

    def _private(self, identity: str) -> Path:
        return self._beside("jobs") / directory_name(identity)

    def _record(self, method: str, identity: str = "") -> None:
        call = Call(method, identity)
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)

    def _breach(self, message: str) -> None:
        self.violations.append(message)
        raise ProtocolViolation(message)

    def _document(self, spec: JobSpec) -> dict[str, Any]:
        return key_document(spec, self._input_digest)

    def _input_digest(self, name: str) -> str:
        """An input's digest as it was before jobs of this run changed it in place."""
        path = Path(name)
        now = content_digest(path)
        return self.memory.originals.get(path, now) if self.memory.files.get(path) == now else now

    def _find(self, spec: JobSpec) -> Ticket:
        found, why, result, value = Lookup.MISS, "", None, None
        name = (spec.identity, spec.try_number)
        job = self.memory.jobs.get(name)
        if name in self._in_flight:
            found = Lookup.RUNNING
        elif job is None:
            why = "it has not ended before"
        elif change := difference(job.document, self._document(spec)):
            why = change
        elif not job.result.ok:
            # A failed try counts once the engine has gone on to the next.
            if (spec.identity, spec.try_number + 1) in self.memory.jobs:
                found, result = Lookup.HIT, job.result
            why = "it failed before"
        elif not job.accepted:
            found = Lookup.RUNNING
        elif lost := [path for path in job.outputs if not self._as_recorded(path)]:
            why = f"its output {lost[0]} is no longer as it was left"
        else:
            found, result, value = Lookup.HIT, job.result, job.value
        return Ticket(
            identity=spec.identity,
            found=found,
            result=result,
            value=value,
            why=why if found is Lookup.MISS else "",
        )

    def _as_recorded(self, path: Path) -> bool:
        recorded = self.memory.files[path]
        return not recorded or content_digest(path) == recorded

    def _check_untouched(self, spec: JobSpec) -> None:
        """The private directory must be as it was when the engine was told its path."""
        self._looked_up.add(spec.identity)
        before = self._asked_directories.pop(spec.identity, None)
        path = self._private(spec.identity)
        if before is not None and _state(path) != before:
            self._breach(
                f"job {spec.identity} was prepared before it was looked up: {path} changed; stage files in "
                "the `prepare` given to submit"
            )

    def _make_ready(self, spec: JobSpec, prepare: Callable[[JobSpec], None] | None) -> None:
        for output in spec.outputs:
            path = self._inside(spec, Path(output), "output")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if prepare is not None:
            prepare(spec)

    def _execute(self, name: Name, spec: JobSpec) -> JobResult:
        document = self._document(spec)
        logs = self._beside("logs")
        logs.mkdir(exist_ok=True)
        record = f"{directory_name(spec.identity)}-{spec.try_number}"
        stdout, stderr = (
            Path(given) if given else logs / f"{record}.{kind}"
            for given, kind in ((spec.stdout, "stdout"), (spec.stderr, "stderr"))
        )
        before = snapshot(self.workspace) if spec.undeclared_outputs else {}
        result = run_command(spec, stdout, stderr, self.job_limit_s)
        after = snapshot(self.workspace) if spec.undeclared_outputs else {}
        self.executed.append(spec.identity)
        self.memory.jobs[name] = _Job(
            document=document,
            result=result,
            changed={
                path: (before.get(path, ""), after.get(path, ""))
                for path in sorted(before.keys() | after.keys())
                if before.get(path) != after.get(path)
            },
        )
        return result

    def _settle(self, verb: str, ticket: Ticket) -> tuple[Name, JobSpec]:
        tries = [name for name in self._to_settle if name[0] == ticket.identity]
        if not tries:
            ended = [name for name in self.specs if name[0] == ticket.identity]
            if not ended:
                why = "it was never submitted"
            elif any(name in self._in_flight for name in ended):
                why = "wait has not returned it"
            elif any(name in self._settled for name in ended):
                why = "it was accepted or rejected already"
            elif ticket.found is Lookup.HIT:
                why = "it is a hit, accepted in an earlier start"
            else:
                why = "it did not succeed"
            self._breach(f"{verb} of {ticket.identity!r}, but {why}")
        name = tries[-1]
        del self._to_settle[name]
        self._settled.add(name)
        return name, self.specs[name]

    def _collectable(self, spec: JobSpec, path: Path) -> Path:
        path = self._inside(spec, path, "output")
        roots = [self._private(spec.identity), *map(Path, spec.outputs)]
        if spec.collection_root:
            roots.append(Path(spec.collection_root))
        if not any(path.is_relative_to(root) for root in roots):
            self._breach(
                f"accept of {spec.identity}: {path} is neither among the outputs of its spec nor under its "
                "collection root or its own directory"
            )
        if not os.path.lexists(path):
            self._breach(f"accept of {spec.identity}: there is no {path}; reject the job instead")
        return path

    def _inside(self, spec: JobSpec, path: Path, what: str) -> Path:
        normal = Path(os.path.normpath(path))
        if not any(normal.is_relative_to(root) for root in (self.workspace, self._beside("jobs"))):
            self._breach(f"job {spec.identity}: the {what} {path} is outside the workspace {self.workspace}")
        return normal


def content_digest(path: Path, root: Path | None = None) -> str:
    """The SHA-256 of a file's content, or of a directory's sorted entries; of what is missing, "missing".

    A link in the directory `root` that leads out of it counts by what is there, as in a run.
    """
    if path.is_symlink():
        target = path.resolve()
        if root is None or not target.exists() or target.is_relative_to(root.resolve()):
            return digest(["link", str(path.readlink())])
        return content_digest(target)
    if path.is_dir():
        entries = sorted(path.iterdir())
        return digest(["directory", [[each.name, content_digest(each, root or path)] for each in entries]])
    if not path.exists():
        return "missing"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def snapshot(directory: Path) -> dict[Path, str]:
    """Every file under a directory, with the digest of its content."""
    files: Iterable[Path] = (Path(root, name) for root, _, names in os.walk(directory) for name in names)
    return {path: content_digest(path) for path in files}


def _state(directory: Path) -> tuple[int, ...]:
    """What changes when something is done in a directory."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        return ()
    return (status.st_ino, status.st_mtime_ns)


def _names(names: Iterable[Name]) -> str:
    return ", ".join(sorted(identity for identity, _ in names))
