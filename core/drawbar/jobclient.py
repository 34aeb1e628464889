"""The engine process's side of running jobs: `drawbar.engine.JobClient` over the wire.

The driver remembers; this side looks at files. It computes keys, checks that a remembered job's
outputs are still as they were left, clears and prepares before an attempt, and records outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TextIO

from drawbar.channel import Channel
from drawbar.codec import decode, dumps, encode
from drawbar.copying import copy_tree, make_directories
from drawbar.copying import inside as within
from drawbar.digests import Digests
from drawbar.engine import Executed, Lookup, Placement, Ticket
from drawbar.enginelog import log_line
from drawbar.errors import InfrastructureError, Problem, Unsupported
from drawbar.home import RunDirectory
from drawbar.identity import canonical_json, difference, digest, directory_name, key_document
from drawbar.model import FileRecord, JobResult, JobSpec, Reason, Resources, WorkspaceNeed
from drawbar.paths import inside
from drawbar.tracker import StartOver, WorkspaceTracker

Name = tuple[str, int]

_IN_JOBS = "//jobs/"
"""Marks the path of a record as relative to the run's directory of jobs, not to its workspace."""


class Restart(BaseException):
    """The engine has to be started from the top, with nothing remembered."""


class Client:
    """See `drawbar.engine.JobClient`.

    `origins` are the run's own copies of the workspace's source files, None for a run in place.
    `consumed` are outputs that were deleted on purpose. `quiet_since` is when the last attempt was
    over, where that is known.
    """

    def __init__(
        self,
        channel: Channel,
        directory: RunDirectory,
        workspace: Path,
        *,
        origins: Mapping[str, Path] | None,
        consumed: Iterable[str] = (),
        quiet_since: float | None = None,
        log: TextIO,
    ) -> None:
        self.run_id = directory.id
        self.workspace = workspace
        self._channel = channel
        self._directory = directory
        self._jobs = directory.jobs
        self._origins = origins
        self._consumed = set(consumed)
        self._quiet_since = quiet_since
        self._log = log
        self._digests = Digests(directory.engine / "digests")
        self._tracker: WorkspaceTracker | None = None
        self._roots = tuple(os.path.realpath(root) for root in (workspace, directory.jobs))
        self._specs: dict[Name, JobSpec] = {}
        self._prepare: dict[Name, Callable[[JobSpec], None] | None] = {}
        self._tickets: dict[Name, Ticket] = {}
        self._tries: dict[str, int] = {}
        self._keys: dict[Name, tuple[JobSpec, str, str]] = {}
        self._placements: dict[str, Placement] = {}
        self._image_digests: dict[tuple[str | None, str | None], str] = {}
        """By backend and image."""
        self._in_flight: set[Name] = set()
        self._others_alive = False
        """Whether attempts are alive that this engine process has not asked for, as it was told last."""

    # the contract

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
        """See `JobClient.place`."""
        question = {
            "step": step,
            "image": image,
            "image_required": image_required,
            "library": library,
            "resources": encode(resources),
            "hints": dict(hints),
            "workspace": workspace,
        }
        known = self._placements.get(digest(question))
        if known is not None:
            return known
        kind, answer = self._channel.ask("place", question, answers=("placed", "refused"))
        if kind == "refused":
            raise Unsupported([decode(Problem, each) for each in answer])
        placement = self._placements.setdefault(digest(question), decode(Placement, answer))
        if placement.image_digest is not None:
            self._image_digests[placement.backend, placement.image] = placement.image_digest
        return placement

    def directory(self, identity: str) -> Path:
        """See `JobClient.directory`."""
        return self._jobs / directory_name(identity)

    def key(self, spec: JobSpec) -> str:
        """See `JobClient.key`."""
        return self._key(spec)[1]

    def lookup(self, specs: Sequence[JobSpec]) -> list[Ticket]:
        """See `JobClient.lookup`."""
        return [ticket for ticket, _ in self._look(specs)]

    def submit(
        self, specs: Sequence[JobSpec], prepare: Callable[[JobSpec], None] | None = None
    ) -> list[Ticket]:
        """See `JobClient.submit`."""
        for spec in specs:
            name = (spec.identity, spec.try_number)
            if self._tries.get(spec.identity, 0) >= spec.try_number:
                raise ValueError(f"two jobs with the identity {spec.identity!r}, try {spec.try_number}")
            self._specs[name], self._prepare[name] = spec, prepare
            self._tries[spec.identity] = spec.try_number
        tickets, jobs, hits = [], [], 0
        looked = list(zip(specs, self._look(specs), strict=True))
        running = [
            (spec.identity, spec.try_number) for spec, (ticket, _) in looked if ticket.found is Lookup.RUNNING
        ]
        if running:
            self._channel.send("want", running)
        self._clear([spec for spec, (ticket, _) in looked if ticket.found is Lookup.MISS])
        for spec, (ticket, answer) in looked:
            name = (spec.identity, spec.try_number)
            self._tickets[name] = ticket
            tickets.append(ticket)
            if ticket.found is Lookup.HIT:
                hits += 1
                if spec.undeclared_outputs and ticket.result is not None and ticket.result.ok:
                    records = [decode(FileRecord, each) for each in answer["outputs"]]
                    self._tracking().hit(_label(name), records, answer["deleted"])
                continue
            if ticket.found is Lookup.MISS and self._adopt(spec, name, answer.get("elsewhere")):
                tickets[-1] = self._tickets[name] = replace(
                    ticket,
                    found=Lookup.HIT,
                    result=decode(JobResult, answer["elsewhere"]["result"]),
                    value=answer["elsewhere"]["value"],
                )
                continue
            self._in_flight.add(name)
            if ticket.found is Lookup.RUNNING:
                continue
            self._make_ready(name)
            jobs.append({**self._order(spec), "why": ticket.why})
        for ticket in tickets:
            if ticket.found is Lookup.HIT:
                self._forget((ticket.identity, self._tries[ticket.identity]))
        if hits:
            self._channel.send("hits", hits)
        if jobs:
            self._channel.send("submit", jobs)
        if jobs or running:
            self._channel.flush()
        return tickets

    def wait(self) -> Executed | None:
        """See `JobClient.wait`."""
        while self._in_flight:
            kind, *rest = self._channel.next()
            if kind == "prepare":
                identity, try_number = rest
                self._make_ready((identity, try_number))
                self._channel.send("again", identity, try_number, now=True)
            elif kind == "executed":
                identity, try_number, value, _ = rest
                name = (identity, try_number)
                self._in_flight.discard(name)
                result = decode(JobResult, value)
                if not result.ok and self._specs[name].undeclared_outputs:
                    self._tracking().failed()
                return Executed(ticket=self._tickets[name], result=result)
            elif kind == "interrupt":
                return None
            else:
                raise InfrastructureError(f"the driver said {kind!r} where that makes no sense")
        return None

    def interrupt(self) -> None:
        """See `JobClient.interrupt`."""
        self._channel.put("interrupt")

    def accept(self, ticket: Ticket, outputs: Iterable[Path] | None = None, value: Any = None) -> None:
        """See `JobClient.accept`."""
        name, spec = self._settled(ticket)
        answer: dict[str, Any] = {"value": value}
        if spec.undeclared_outputs:
            records, deleted = self._tracking().changes()
            self._channel.ask(
                "accept",
                *name,
                {**answer, "outputs": encode(records), "deleted": deleted},
                answers=("accepted",),
            )
            self._tracking().accept(_label(name), records, deleted)
            self._forget(name)
            return
        paths = spec.outputs if outputs is None else outputs
        answer["outputs"] = [encode(self._record(os.fspath(path))) for path in paths]
        self._channel.send("accept", *name, answer)
        self._forget(name)

    def reject(self, ticket: Ticket, message: str, reason: Reason = Reason.COLLECTION) -> None:
        """See `JobClient.reject`."""
        name, spec = self._settled(ticket)
        if spec.undeclared_outputs:
            self._tracking().failed()
        self._channel.send("reject", *name, reason, message)
        self._forget(name)

    def consumed(self, paths: Iterable[Path]) -> None:
        """See `JobClient.consumed`."""
        names = [os.path.relpath(path, self.workspace) for path in paths]
        self._consumed.update(names)
        self._channel.send("consumed", names)

    def cancel(self, tickets: Iterable[Ticket]) -> None:
        """See `JobClient.cancel`."""
        names = [(ticket.identity, self._tries[ticket.identity]) for ticket in tickets]
        self._channel.send("cancel", names, now=True)

    def log(self, logger: str, level: str, message: str, thread: str = "MainThread") -> None:
        """See `JobClient.log`."""
        self._log.write(log_line(time.time(), logger, level, message, thread))
        self._log.flush()

    def progress(self, total: int | None, done: int | None = None) -> None:
        """See `JobClient.progress`."""
        self._channel.send("progress", total, done)

    # around it

    def finish(self) -> None:
        """The engine has returned: bring a tracked workspace to where its jobs left it, and let go."""
        if self._tracker is not None:
            self._settle(None)
        self.close()

    def close(self) -> None:
        """Write what was learnt about files."""
        self._channel.flush()
        self._digests.close()
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None

    # how it is done

    def _forget(self, name: Name) -> None:
        """Nothing more will be asked about this job; what is kept must not grow with those that ended."""
        for kept in (self._specs, self._prepare, self._tickets, self._keys):
            kept.pop(name, None)

    def _key(self, spec: JobSpec) -> tuple[str, str]:
        """The key document of a job, as text, and its key."""
        name = (spec.identity, spec.try_number)
        known = self._keys.get(name)
        if known is None or known[0] is not spec:
            image_digest = self._image_digests.get((spec.backend, spec.image))
            document = canonical_json(key_document(spec, self._digests.content, image_digest))
            known = self._keys[name] = (spec, document.decode(), hashlib.sha256(document).hexdigest())
        return known[1], known[2]

    def _order(self, spec: JobSpec) -> dict[str, Any]:
        """A job for the driver. The texts are those that it stores, so nobody makes them again."""
        document, key = self._key(spec)
        return {"key": key, "document": document, "spec": dumps(spec)}

    def _look(self, specs: Sequence[JobSpec]) -> list[tuple[Ticket, Mapping[str, Any]]]:
        names = [(spec.identity, spec.try_number, self._key(spec)[1]) for spec in specs]
        if not names:
            return []
        _, answers, self._others_alive = self._channel.ask("lookup", names, answers=("found",))
        return [(self._ticket(spec, answer), answer) for spec, answer in zip(specs, answers, strict=True)]

    def _clear(self, misses: Sequence[JobSpec]) -> None:
        """Before anything is prepared: what an earlier drive left alive must not work beside these jobs."""
        if misses and self._others_alive:
            jobs = [
                (spec.identity, spec.try_number, spec.undeclared_outputs, spec.outputs) for spec in misses
            ]
            self._channel.ask("clear", jobs, answers=("cleared",))

    def _ticket(self, spec: JobSpec, answer: Mapping[str, Any]) -> Ticket:
        found, why = Lookup(answer["found"]), answer.get("why", "")
        if "document" in answer:
            why = difference(answer["document"], json.loads(self._key(spec)[0])) or "its key changed"
        if found is not Lookup.HIT:
            return Ticket(identity=spec.identity, found=found, why=why)
        result = decode(JobResult, answer["result"])
        changed = self._verify(spec, answer) if result.ok else None
        if changed is not None:
            return Ticket(identity=spec.identity, found=Lookup.MISS, why=changed)
        return Ticket(identity=spec.identity, found=Lookup.HIT, result=result, value=answer.get("value"))

    def _verify(self, spec: JobSpec, answer: Mapping[str, Any]) -> str | None:
        """Why what a remembered job left does not count any more, or None."""
        records = [decode(FileRecord, each) for each in answer["outputs"]]
        if spec.undeclared_outputs:
            return self._tracking().verify(_label((spec.identity, spec.try_number)), records)
        for record in records:
            if record.path not in self._consumed and not self._verified(record, self.workspace, self._jobs):
                return f"its output {record.path} is no longer as it was left"
        return None

    def _record(self, path: str) -> FileRecord:
        """The record of an output: relative to the workspace, or to the directory of jobs with a mark."""
        if within(path, str(self._jobs)):
            record = self._digests.record(path, self._jobs)
            return replace(record, path=_IN_JOBS + record.path)
        return self._digests.record(path, self.workspace)

    def _verified(self, record: FileRecord, workspace: Path, jobs: Path) -> bool:
        root, path = _located(record, workspace, jobs)
        return self._digests.verify(replace(record, path=path), root)

    def _adopt(self, spec: JobSpec, name: Name, elsewhere: Mapping[str, Any] | None) -> bool:
        """Put what a job of another run left at this job's own place; False when that cannot be done."""
        if elsewhere is None or not spec.reusable:
            return False
        workspace, jobs = Path(elsewhere["workspace"]), Path(elsewhere["jobs"])
        records = [decode(FileRecord, each) for each in elsewhere["outputs"]]
        if not all(self._verified(record, workspace, jobs) for record in records):
            return False
        self._make_ready(name, prepare=False)
        for record in records:
            from_root, path = _located(record, workspace, jobs)
            to_root, _ = _located(record, self.workspace, self._jobs)
            parent = make_directories(to_root, PurePosixPath(path).parent)
            copy_tree(from_root / path, parent / PurePosixPath(path).name, from_root)
        for path in elsewhere["deleted"]:
            _remove(inside(self.workspace, path, "a job's deleted file"))
        self._channel.ask("adopt", {**elsewhere, **self._order(spec)}, answers=("accepted",))
        if spec.undeclared_outputs:
            found, deleted = self._tracking().changes()
            self._tracking().accept(_label(name), found, deleted)
        return True

    def _make_ready(self, name: Name, *, prepare: bool = True) -> None:
        """What comes before an attempt: what earlier ones left is cleared, then the engine prepares."""
        spec, prepares = self._specs[name], self._prepare[name]
        if spec.undeclared_outputs:
            self._settle(_label(name))
        own = str(self.directory(spec.identity))
        _remove(own)
        for output in spec.outputs:
            if within(output, own) and ".." not in output:
                continue  # there is nothing in the job's own directory any more, so no link either
            self._check_inside(spec, output)
            _remove(output)
        if prepare and prepares is not None:
            prepares(spec)

    def _check_inside(self, spec: JobSpec, path: str) -> None:
        parent = os.path.dirname(path)  # noqa: PTH120 (once for every output)
        if parent in self._roots:
            return  # links are made inside the roots, and no root is made one
        parent = os.path.realpath(parent)
        if not any(within(parent, root) for root in self._roots):
            raise Unsupported(Problem(message=f"its output {path} is outside the workspace", step=spec.step))

    def _settled(self, ticket: Ticket) -> tuple[Name, JobSpec]:
        name = (ticket.identity, self._tries[ticket.identity])
        if name in self._in_flight:
            raise ValueError(f"{ticket.identity} has not ended")
        return name, self._specs[name]

    def _tracking(self) -> WorkspaceTracker:
        if self._tracker is None:
            state = self._directory.engine / "tracker"
            self._tracker = WorkspaceTracker(self.workspace, state, self._digests, self._origins)
            self._tracker.begin(self._quiet_since)
        return self._tracker

    def _settle(self, label: str | None) -> None:
        try:
            settled = self._tracking().settle(label)
        except StartOver as reason:
            self._channel.send("notice", str(reason))
            self._channel.ask("start_over", answers=("accepted",))
            self._tracking().reset()
            self.close()
            raise Restart from reason
        if settled.swept:
            self._channel.send(
                "notice",
                f"moved aside what attempts left that do not count: {len(settled.swept)} files, "
                f"now in {settled.swept_to}",
            )


def _located(record: FileRecord, workspace: Path, jobs: Path) -> tuple[Path, str]:
    """The directory that a record's path is relative to, and that path."""
    if record.path.startswith(_IN_JOBS):
        return jobs, record.path.removeprefix(_IN_JOBS)
    return workspace, record.path


def _label(name: Name) -> str:
    identity, try_number = name
    return identity if try_number == 1 else f"{identity}#{try_number}"


def _remove(path: Path | str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        shutil.rmtree(path)
    else:
        Path(path).unlink()
