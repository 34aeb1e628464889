"""What is in a workspace: a mapping from relative path to `Entry`, and how two of them differ."""

# Plain strings and os functions, not Path: most of this is called for every file of a workspace.
# ruff: noqa: PTH115, PTH118, PTH120
from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from drawbar.copying import TEMPORARY, naming
from drawbar.digests import Digests, text_digest
from drawbar.model import FileRecord

OWN = ".drawbar"
"""How the names of drawbar's own files at the top of a workspace begin."""


class Entry(NamedTuple):
    """A file, link or directory; the first three fields say what it is, and the others only how it looks."""

    kind: str
    sha256: str = ""
    executable: bool = False
    size: int = 0
    mtime_ns: int = 0


DIRECTORY = Entry("directory")

Snapshot = dict[str, Entry]
"""Each directory above an entry is an entry too."""


def same(one: Entry | None, other: Entry | None) -> bool:
    """Whether two entries, or absences, are the same content."""
    return one is other or (one is not None and other is not None and one[:3] == other[:3])


def difference(old: Snapshot, new: Snapshot) -> tuple[Snapshot, list[str]]:
    """What is new or other in `new`, and the paths that are only in `old`."""
    changed = {path: entry for path, entry in new.items() if not same(old.get(path), entry)}
    return changed, [path for path in old if path not in new]


def put(snapshot: Snapshot, path: str, entry: Entry) -> None:
    """Set an entry, with the directories above it."""
    snapshot[path] = entry
    while path := os.path.dirname(path):
        above = snapshot.get(path)
        if above is not None and above.kind == "directory":
            return
        snapshot[path] = DIRECTORY


def update(snapshot: Snapshot, changed: Mapping[str, Entry], deleted: Iterable[str]) -> None:
    """Apply a difference."""
    for path in deleted:
        snapshot.pop(path, None)
    for path, entry in changed.items():
        put(snapshot, path, entry)


def to_json(changed: Mapping[str, Entry], deleted: Sequence[str]) -> dict[str, Any]:
    """A difference as a JSON value."""
    return {"changed": {path: list(entry) for path, entry in changed.items()}, "deleted": list(deleted)}


def from_json(value: Mapping[str, Any]) -> tuple[Snapshot, list[str]]:
    """The difference that `to_json` wrote."""
    return {path: Entry(*entry) for path, entry in value["changed"].items()}, value["deleted"]


def to_record(path: str, entry: Entry) -> FileRecord:
    """The record of an entry."""
    return FileRecord(
        path=path,
        size=entry.size,
        mtime_ns=entry.mtime_ns,
        sha256=entry.sha256,
        kind=entry.kind,
        executable=entry.executable,
    )


def from_record(record: FileRecord) -> Entry:
    """The entry of a record that `to_record` made."""
    return Entry(record.kind, record.sha256, record.executable, record.size, record.mtime_ns)


def take(root: Path, digests: Digests, ignored: Collection[str]) -> tuple[Snapshot, list[str]]:
    """What is beneath `root` now, and the paths of copies that somebody was killed in.

    Follows no link. `ignored` relative paths, drawbar's own files, pipes, sockets and devices are
    left out. Raises `InfrastructureError` for what cannot be read.
    """
    snapshot: Snapshot = {}
    unfinished: list[str] = []
    for path, entry in _entries(root, ignored):
        if entry.name.startswith(TEMPORARY):
            unfinished.append(path)
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            mode = status.st_mode
            if stat.S_ISREG(mode):
                digest = digests.file(entry.path, status)
                snapshot[path] = Entry(
                    "file", digest, bool(mode & stat.S_IXUSR), status.st_size, status.st_mtime_ns
                )
            elif stat.S_ISDIR(mode):
                snapshot[path] = DIRECTORY
            elif stat.S_ISLNK(mode):
                text = os.readlink(entry.path)
                snapshot[path] = Entry("link", text_digest(text), False, len(text), status.st_mtime_ns)
        except FileNotFoundError:
            continue  # somebody outside of the run deleted it this moment
    digests.flush()
    return snapshot, unfinished


def _entries(root: Path, ignored: Collection[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [""]
    while pending:
        prefix = pending.pop()
        directory = os.path.join(root, prefix)
        with naming("read the directory", directory), os.scandir(directory) as found:
            entries = list(found)
        for entry in entries:
            path = prefix + entry.name
            own = not prefix and entry.name.startswith(OWN) and not entry.name.startswith(TEMPORARY)
            if own or path in ignored:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(path + "/")
            yield path, entry
