"""The workspace of jobs that may change anything in it: what they changed, and how to undo it.

Such jobs follow one another. Three states of the workspace are kept apart, each a mapping from
relative path to `Entry`:

* *sources*: what the first job found. Files that have an *origin* (the analysis' own copy) are as
  they are there; all others are what lay in the workspace, such as the user's files in a run in place.
* *expected*: the sources and what the jobs that count left, in their order. A replay begins at the
  sources; each hit and each accepted job moves it on. It lives in memory only.
* *present*: what the disk held when somebody last looked, as far as drawbar can tell who did it.
  It is written to the journal.

The life of one job, with what is written when (each journal line is there as a whole or not at all)::

                settle(k)                     changes()  accept(k)
    expected ───────────────▶ open: k at work ─────────────────────▶ expected, with what k changed
                 │                 │                       │
                 │ 1 "opened",     │ failed()              │ 1 contents kept by digest
                 │   present:=disk ▼                       │ 2 "accepted", present := disk, closed
                 │ 2 wrong files   closed, present := disk
                 │   moved aside
                 │ 3 missing ones restored
                 │ 4 present := expected

Whoever is killed in between: while an attempt is open, what differs from *present* is the attempt's
or a half-done settle's, and the next settle does it all again; while none is open, it is the user's.
So `begin`, which every engine process calls first, takes a user's edit of a source for a new source,
and never what a killed job left. `settle` is repeatable: it walks, compares, and moves or restores
one file at a time, each atomically. `changes` writes nothing. A kill between the store's word that
job k is accepted and the line here is made good by `hit(k)`.

A remembered job's file need not lie on the disk: a later accepted job may have replaced it, and as
long as that one is a hit too, nobody asks for it. If somebody does (a miss in between), `settle`
takes it from the kept contents, or raises `StartOver` before it has touched anything.

Nothing is deleted: what has to go is moved to a numbered directory beside the journal. Pipes, sockets
and devices are invisible here, and so are drawbar's own files.
"""

# Plain strings and os functions, not Path: most of this is called for every file of a workspace.
# ruff: noqa: PTH115, PTH118
from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from drawbar.copying import TEMPORARY, copy_file, make_directories, make_link, naming, printable
from drawbar.digests import Digests
from drawbar.errors import InfrastructureError
from drawbar.journal import Journal
from drawbar.model import FileRecord
from drawbar.snapshot import (
    Entry,
    Snapshot,
    difference,
    from_json,
    from_record,
    put,
    same,
    to_json,
    to_record,
    update,
)
from drawbar.snapshot import take as snapshot_of
from drawbar.sweep import Sweep
from drawbar.versions import Versions

_CLOCK_SKEW_NS = 2_000_000_000


class StartOver(Exception):
    """A version of `path` that is needed is gone: `reset` the workspace and repeat every job."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{printable(path)} was changed by a later job and no copy of the earlier version was kept; "
            "the run starts over"
        )
        self.path = path


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What `settle` did: paths moved aside, into which directories, and paths restored."""

    swept: tuple[str, ...] = ()
    swept_to: Path | None = None
    restored: tuple[str, ...] = ()


class WorkspaceTracker:
    """Follows a workspace through jobs that do not say what they change.

    `origins` gives, by relative path, the analysis' own copy of each input; None means a run in
    place, whose sources are the files in the workspace. `state_dir` belongs to this object alone.
    `ignored` are relative paths of the workspace that are none of the jobs' business.
    Paths in and out are relative to the workspace.
    """

    def __init__(
        self,
        workspace: Path,
        state_dir: Path,
        digests: Digests,
        origins: Mapping[str, Path] | None = None,
        *,
        budget_mib: int = 1024,
        ignored: Iterable[str] = (),
    ) -> None:
        self.workspace = workspace
        self._state_dir = state_dir
        self._digests = digests
        self._origins = dict(origins or {})
        self._ignored = {*ignored, os.path.relpath(state_dir, workspace)}
        self._journal = Journal(state_dir / "journal")
        self._versions = Versions(state_dir / "versions", digests, budget_mib)
        self._sources: Snapshot = {}
        self._with_origin: frozenset[str] = frozenset()
        self._present: Snapshot = {}
        self._writer: dict[str, str] = {}
        """The accepted job that last changed or deleted a path, where nobody else did since."""
        self._order: dict[str, int] = {}
        """When each accepted job was, counted in events; ascends along the jobs of a replay."""
        self._opened: tuple[str, int] | None = None
        self._expected: Snapshot = {}
        self._author: dict[str, str] = {}
        """The job of this replay that last changed or deleted a path, as `expected` has it."""
        self._latest = 0
        """When the last job of this replay was accepted."""
        self._disk: Snapshot | None = None
        self._unfinished: list[str] = []
        self._events = 0
        for event in self._journal.events:
            self._apply(event)

    def begin(self, quiet_since: float | None = None) -> tuple[str, ...]:
        """Find out what the sources are now, and expect them; every replay starts with this.

        Returns the sources that were changed, added or deleted since the last time. `quiet_since`
        (seconds since the epoch) is when the last attempt was over, where that is known: what was
        changed later is the user's even if no tracker saw that attempt end.
        """
        disk = self._disk = self._walk()
        first = self._events == 0
        sources = dict(disk) if first else self._edited(disk, quiet_since)
        for path in self._with_origin - self._origins.keys():
            sources.pop(path, None)
        for path, origin in self._origins.items():
            known = sources.get(path)
            if known is None or known.kind != "link":  # a link was copied as one
                put(sources, path, self._origin_entry(origin))
        changed, deleted = difference(self._sources, sources)
        for path, entry in sorted(changed.items(), key=lambda item: item[1].size):
            if path not in self._origins and same(disk.get(path), entry):
                self._keep(path, entry)
        on_disk = {path: entry for path, entry in changed.items() if same(disk.get(path), entry)}
        gone = [path for path in deleted if path not in disk]
        if first or changed or deleted or self._with_origin != self._origins.keys():
            self._note(
                {
                    "sources": to_json(changed, deleted),
                    "with_origin": sorted(self._origins),
                    "present": to_json(disk, []) if first else to_json(on_disk, gone),
                }
            )
        self._expected = dict(self._sources)
        self._author.clear()
        self._latest = 0
        return () if first else tuple(sorted([*changed, *deleted]))

    def digest(self, path: str) -> str | None:
        """The digest of a file as the next job will find it, or None when it will find no file."""
        entry = self._expected.get(path)
        return entry.sha256 if entry is not None and entry.kind != "directory" else None

    def verify(self, identity: str, records: Iterable[FileRecord]) -> str | None:
        """Why what this job left cannot be had again, or None when it can. Changes nothing.

        Right on the disk, replaced there by a later job that was accepted, or kept: each will do.
        """
        disk = self._current()
        for record in records:
            path, entry = record.path, from_record(record)
            found = disk.get(path)
            if same(found, entry) or entry.kind == "directory" or self._replaced(identity, path, found):
                continue
            if self._source_of(path, entry, found) is None:
                what = "is missing" if found is None else "was changed"
                return f"{printable(path)} {what}, and no copy of what the job left was kept"
        return None

    def hit(self, identity: str, records: Sequence[FileRecord], deleted: Iterable[str]) -> None:
        """The next job is remembered, and this is what it left; `verify` found that it can be had."""
        changed = {record.path: from_record(record) for record in records}
        deleted = list(deleted)
        killed = self._opened is not None and self._opened[0] == identity
        # not known here, or a job before it was repeated and may have overwritten what this one left
        if killed or self._order.get(identity, -1) < self._latest:
            self._accepted(identity, changed, deleted)
        self._expect(identity, changed, deleted)
        if killed and not self._wrong(self._current()):
            self._note({"opened": None})

    def settle(self, identity: str | None) -> Settled:
        """Make the workspace what is expected, for the job `identity` to start, or at a run's end (None).

        No job may be alive. After `StartOver` nothing has been touched. After any other error the
        next call does the rest.
        """
        disk = self._current()
        sources = self._restorable(disk)
        missing = [path for path, source in sources.items() if source is None]
        if missing:
            raise StartOver(min(missing))
        if identity is None and not self._wrong(disk) and self._opened is None:
            return Settled()
        settled = self._repair(identity or "", disk, sources)
        if identity is None:
            self._note({"opened": None})
        self._disk = None if identity is not None else dict(self._expected)
        return settled

    def changes(self) -> tuple[list[FileRecord], list[str]]:
        """What the job that just ended changed or made, and what it deleted. Writes nothing."""
        self._disk = self._walk()
        changed, deleted = difference(self._expected, self._disk)
        records = [to_record(path, entry) for path, entry in sorted(changed.items())]
        return records, sorted(deleted)

    def accept(self, identity: str, records: Sequence[FileRecord], deleted: Iterable[str]) -> None:
        """The job that just ended counts, with what `changes` told; its files are kept."""
        changed = {record.path: from_record(record) for record in records}
        deleted = list(deleted)
        self._accepted(identity, changed, deleted, opened=None)
        self._expect(identity, changed, deleted)

    def failed(self) -> None:
        """The job that just ended does not count; what it changed is undone by the next `settle`.

        From here on, what changes in the workspace is the user's doing.
        """
        disk = self._disk = self._walk()
        self._note({"present": to_json(*difference(self._present, disk)), "opened": None})

    def reset(self) -> Settled:
        """Bring the workspace back to the sources alone; a `begin` follows.

        `InfrastructureError` names every source that a job changed and nobody can restore; nothing
        has been touched then.
        """
        self.begin()
        disk = self._current()
        sources = self._restorable(disk)
        missing = sorted(path for path, source in sources.items() if source is None)
        if missing:
            raise InfrastructureError(
                f"jobs changed {', '.join(map(printable, missing))}, and no copy was kept; "
                "put the original back and resume"
            )
        settled = self._repair("", disk, sources, reset=True)
        self._note({"opened": None})
        self._disk = None
        return settled

    def close(self) -> None:
        """Release the journal."""
        self._journal.close()

    # the journal

    def _note(self, event: dict[str, Any], *, durable: bool = False) -> None:
        self._journal.append(event, durable=durable)
        self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        self._events += 1
        if event.get("reset"):
            self._writer.clear()
            self._order.clear()
        if "sources" in event:
            update(self._sources, *from_json(event["sources"]))
        if "with_origin" in event:
            self._with_origin = frozenset(event["with_origin"])
        identity = event.get("accepted")
        if identity is not None:
            self._order[identity] = self._events
        if "present" in event:
            changed, deleted = from_json(event["present"])
            update(self._present, changed, deleted)
            restored = event.get("authors", {})
            for path in (*changed, *deleted):
                writer = identity or restored.get(path)
                if writer is None:
                    self._writer.pop(path, None)
                else:
                    self._writer[path] = writer
        if "opened" in event:
            opened = event["opened"]
            self._opened = None if opened is None else (opened[0], opened[1])

    def _accepted(self, identity: str, changed: Snapshot, deleted: list[str], **more: Any) -> None:
        disk = self._current()
        for path, entry in changed.items():
            if same(disk.get(path), entry):
                self._keep(path, entry)
        self._note({"accepted": identity, "present": to_json(changed, deleted), **more})

    def _expect(self, identity: str, changed: Snapshot, deleted: list[str]) -> None:
        update(self._expected, changed, deleted)
        self._author.update(dict.fromkeys((*changed, *deleted), identity))
        self._latest = self._order[identity]

    # what is there

    def _current(self) -> Snapshot:
        if self._disk is None:
            self._disk = self._walk()
        return self._disk

    def _walk(self) -> Snapshot:
        snapshot, self._unfinished = snapshot_of(self.workspace, self._digests, self._ignored)
        return snapshot

    def _edited(self, disk: Snapshot, quiet_since: float | None) -> Snapshot:
        """The sources with what the user changed in the workspace since the last look."""
        sources = dict(self._sources)
        changed, deleted = difference(self._present, disk)
        for path in (*changed, *deleted):
            untouched = path not in self._writer and same(self._present.get(path), self._sources.get(path))
            if path not in self._with_origin and untouched and self._is_users(path, quiet_since):
                if path in disk:
                    put(sources, path, disk[path])
                else:
                    sources.pop(path, None)
        return sources

    def _is_users(self, path: str, quiet_since: float | None) -> bool:
        """Whether a difference from what was present cannot be the open attempt's."""
        if self._opened is None:
            return True
        try:
            status = os.lstat(os.path.join(self.workspace, path))
        except OSError:
            return False
        _, opened = self._opened
        if status.st_ctime_ns < opened:
            return True
        quiet = 0 if quiet_since is None else int(quiet_since * 1e9)
        return quiet > opened and min(status.st_mtime_ns, status.st_ctime_ns) > quiet + _CLOCK_SKEW_NS

    def _origin_entry(self, origin: Path) -> Entry:
        with naming("read", origin):
            status = origin.stat()
            digest = self._digests.file(origin, status)
        executable = bool(status.st_mode & stat.S_IXUSR)
        return Entry("file", digest, executable, status.st_size, status.st_mtime_ns)

    def _clock(self) -> int:
        """The time now, in ns, on the clock that stamps the files of the workspace."""
        path = os.path.join(self.workspace, f"{TEMPORARY}clock")
        with naming("write", path):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(file, b".")
                return os.fstat(file).st_ctime_ns
            finally:
                os.close(file)
                Path(path).unlink()

    # what can be had again

    def _replaced(self, identity: str, path: str, found: Entry | None) -> bool:
        """Whether a job accepted after this one replaced or deleted the path, and nothing did since."""
        writer = self._writer.get(path)
        return (
            writer is not None
            and self._order[writer] > self._order.get(identity, self._events)
            and same(found, self._present.get(path))
        )

    def _keep(self, path: str, entry: Entry) -> None:
        place = self.workspace / path
        if entry.kind == "link":
            self._versions.keep_text(os.readlink(place), entry.sha256)
        elif entry.kind == "file":
            self._versions.keep(place, entry.sha256)

    def _source_of(self, path: str, entry: Entry, found: Entry | None) -> Path | None:
        """A file with the content of `entry`, or None."""
        kept = self._versions.find(entry.sha256)
        if kept is not None:
            return kept
        if found is not None and found[:2] == entry[:2]:
            return self.workspace / path  # only the executable bit differs
        origin = self._origins.get(path)
        if origin is not None and entry.kind == "file":
            with suppress(OSError, InfrastructureError):
                if self._digests.file(origin) == entry.sha256:
                    return origin
        return None

    def _restorable(self, disk: Snapshot) -> dict[str, Path | None]:
        """For each file and link that is not on the disk as expected, where its content is."""
        return {
            path: self._source_of(path, entry, disk.get(path))
            for path, entry in self._expected.items()
            if entry.kind != "directory" and not same(disk.get(path), entry)
        }

    # making the workspace what is expected

    def _wrong(self, disk: Snapshot) -> bool:
        changed, deleted = difference(self._expected, disk)
        return bool(changed or deleted)

    def _repair(
        self, identity: str, disk: Snapshot, sources: Mapping[str, Path | None], **more: Any
    ) -> Settled:
        """Open an attempt, and make the workspace what is expected. `sources` are from `_restorable`."""
        found = to_json(*difference(self._present, disk))
        self._note({"opened": [identity, self._clock()], "present": found, **more}, durable=True)
        for path in self._unfinished:
            (self.workspace / path).unlink(missing_ok=True)
        expected = self._expected
        wrong = [path for path, entry in disk.items() if not same(expected.get(path), entry)]
        swept = Sweep(self.workspace, self._state_dir / "swept")
        for path in sorted(wrong, reverse=True):  # what is in a directory comes before it
            if sources.get(path) != self.workspace / path:
                swept.take(path, directory=disk[path].kind == "directory")
        restored = []
        for path, entry in sorted(expected.items()):
            if not same(disk.get(path), entry):
                self._restore(path, entry, sources.get(path))
                restored.append(path)
        if wrong or restored:
            changed, deleted = difference(self._present, expected)
            authors = {path: self._author[path] for path in (*changed, *deleted) if path in self._author}
            self._note({"present": to_json(changed, deleted), "authors": authors})
        return Settled(swept=tuple(sorted(swept.paths)), swept_to=swept.place, restored=tuple(restored))

    def _restore(self, path: str, entry: Entry, source: Path | None) -> None:
        target, relative = self.workspace / path, PurePosixPath(path)
        if entry.kind == "directory":
            make_directories(self.workspace, relative)
            return
        assert source is not None
        make_directories(self.workspace, relative.parent)
        if entry.kind == "link":
            make_link(os.fsdecode(source.read_bytes()), target)
            return
        if source != target:
            copy_file(source, target)
        with naming("restore", target):
            mode = stat.S_IMODE(target.stat().st_mode)
            readable = (mode & 0o444) >> 2
            target.chmod(mode | readable if entry.executable else mode & ~0o111)
            os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns))
