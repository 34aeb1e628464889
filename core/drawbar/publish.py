"""What a run leaves: declared outputs checked and copied out, and the space that the rest takes."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

from drawbar.copying import (
    carry_out,
    copy_file,
    inside,
    kind_of,
    link_or_copy,
    naming,
    plan,
    printable,
    relative_path,
)
from drawbar.digests import Digests
from drawbar.errors import RunFailed
from drawbar.model import FileRecord, Keep

T = TypeVar("T")


def check_outputs(
    workspace: Path, paths: Iterable[str], digests: Digests
) -> tuple[list[FileRecord], dict[str, str]]:
    """The records of a run's declared outputs, and for each that is not there, why.

    An output is a file or a directory; a directory yields a record for each file in it, and one of
    its own when it is empty. Nothing counts that lies, or leads by a link, outside of the workspace.
    `SpecError` for a path that is absolute or holds `..`.
    """
    records: dict[str, FileRecord] = {}
    missing: dict[str, str] = {}
    for text in paths:
        path = relative_path(text)
        reason = _absence(workspace, path)
        if reason is not None:
            missing[text] = reason
            continue
        found = plan(workspace / path, path, workspace)
        if found.problems:
            missing[text] = "; ".join(found.problems)
            continue
        content = [item for item in found.items if item.kind != "directory"] or found.items[:1]
        for item in content:
            if item.kind == "link" and not (workspace / item.target).is_file():
                continue  # it leads to a directory, or nowhere
            records[str(item.target)] = digests.record(workspace / item.target, workspace)
    digests.flush()
    return [records[path] for path in sorted(records)], missing


def publish(
    paths: Iterable[str], workspace: Path, destination: Path, *, hard_links: bool = False
) -> list[Path]:
    """Copy declared outputs to their relative paths in `destination`; each file is there whole or not.

    Returns what was asked for, at its new place. Shares content where the file system can; with
    `hard_links` also by links, for a workspace that nobody writes in any more. `RunFailed` lists
    every output that is missing or leads out of the workspace, before anything is copied.
    """
    wanted = [relative_path(text) for text in paths]
    plans, problems = [], []
    for path in wanted:
        reason = _absence(workspace, path)
        if reason is not None:
            problems.append(f"{printable(path)} {reason}")
            continue
        plans.append(plan(workspace / path, path, workspace))
        problems += plans[-1].problems
    if problems:
        raise RunFailed("cannot publish these outputs:\n" + "\n".join(f"  {each}" for each in problems))
    copy = link_or_copy if hard_links else copy_file
    carry_out((item for each in plans for item in each.items), destination, copy)
    return [destination / path for path in wanted]


def disk_usage(path: Path) -> int:
    """Bytes on disk of everything beneath `path`; a file with several names counts once.

    What goes away or cannot be read meanwhile counts as nothing.
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    for status in _statuses(path):
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        total += status.st_blocks * 512
    return total


def free_space(path: Path) -> int:
    """Bytes that may still be written where `path` is, or is going to be."""
    while not path.exists():
        path = path.parent
    with naming("ask for the free space of", path):
        return shutil.disk_usage(path).free


def discard(directory: Path, keep: Keep, outputs: Iterable[str] = ()) -> int:
    """Remove what is not kept from a run's own directory; returns the bytes on disk that this freed.

    `keep` is all (nothing is removed), outputs (these relative paths, with the directories above
    them, stay) or none. No link is followed. A job's read-only directories are made writable. After
    an error what was not removed is still there, and calling again goes on. Never for a directory
    that is the user's.
    """
    if keep is Keep.ALL or not directory.exists():
        return 0
    before = disk_usage(directory)
    kept = {relative_path(text) for text in outputs} if keep is Keep.OUTPUTS else set()
    above = {parent for path in kept for parent in path.parents}
    _remove_beneath(directory, kept, above)
    if not kept:
        _insist(directory.rmdir, directory.parent)
        return before
    return before - disk_usage(directory)


def _absence(workspace: Path, path: PurePosixPath) -> str | None:
    """Why an output is not there, or None."""
    place = workspace / path
    if not inside(os.path.realpath(place), os.path.realpath(workspace)):
        return "leads out of the workspace"
    try:
        mode = place.stat().st_mode
    except OSError as error:
        return "is a link that leads nowhere" if place.is_symlink() else _reason(error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return f"is {kind_of(mode)}"
    return None


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "does not exist"
    return f"cannot be read: {error.strerror}"


def _statuses(path: Path) -> Iterator[os.stat_result]:
    pending = [path]
    while pending:
        place = pending.pop()
        try:
            status = place.lstat()
            if stat.S_ISDIR(status.st_mode):
                pending += place.iterdir()
        except OSError:
            continue
        yield status


def _remove_beneath(root: Path, kept: set[PurePosixPath], above: set[PurePosixPath]) -> None:
    """Remove everything in `root` but what is kept, and the directories above that."""
    emptied: list[PurePosixPath] = []
    pending = [PurePosixPath()]
    while pending:
        directory = pending.pop()
        for entry in _insist(partial(_entries, root / directory), root / directory):
            path = directory / entry.name
            if path in kept:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
                if path not in above:
                    emptied.append(path)
            else:
                _insist((root / path).unlink, root / directory)
    for directory in reversed(emptied):
        _insist((root / directory).rmdir, root / directory.parent)


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _insist(action: Callable[[], T], directory: Path) -> T:
    """Do something in a directory, which is made writable when that is what it takes."""
    with naming("remove what is in", directory):
        try:
            return action()
        except PermissionError:
            directory.chmod(stat.S_IRWXU)
            return action()
