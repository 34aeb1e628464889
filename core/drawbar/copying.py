"""Copies of files and trees: atomic, cheap where the file system can clone, and never through a link.

A copy is made under a temporary name beside its target and renamed, so that a target is either what
it was or complete, whatever is killed when. What a workspace holds is not trusted: a link at a target
is replaced and not followed, and links in a tree must stay inside the tree's root.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from drawbar.errors import InfrastructureError, SpecError

TEMPORARY = ".drawbar-tmp-"
"""How the names of unfinished copies begin; one that is left over was killed and may be removed."""

_FICLONE = 0x40049409
_CHUNK = 1 << 20
_NOT_HERE = frozenset(
    {
        errno.EBADF,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EXDEV,
    }
)
"""Errors that mean: this file system, or this pair of them, has no such operation."""


def printable(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a message, whatever characters it has."""
    text = os.fspath(path)
    return text if text.isprintable() else ascii(text)


@contextmanager
def naming(action: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an OSError into an `InfrastructureError` that says what could not be done to which path."""
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "; free some space and resume"
        elif error.errno in (errno.EACCES, errno.EPERM):
            hint = "; check its permissions and those of the directories above it"
        raise InfrastructureError(f"cannot {action} {printable(path)}: {error.strerror}{hint}") from error


def relative_path(text: str) -> PurePosixPath:
    """`text` as a path inside a directory; a `SpecError` for one that is absolute, empty or leads out."""
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text:
        raise SpecError(f"{printable(text)!r} must be a relative path without '..'")
    return path


def inside(path: str, root: str) -> bool:
    """Whether `path` is `root` or beneath it; both must be free of links."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def kind_of(mode: int) -> str:
    """What a file of this mode is called, for messages about the ones that cannot be copied."""
    for test, name in (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISLNK, "a link"),
    ):
        if test(mode):
            return name
    return "no file"


def copy_file(source: Path, target: Path, *, durable: bool = False) -> None:
    """Make `target` a copy of the file `source`, with its permission bits and modification time.

    Shares the content where the file system can. With `durable` the content is on disk before
    `target` is replaced. After an error (`InfrastructureError`) `target` is what it was.
    """
    _copy(source, target, durable=durable)


def clone_file(source: Path, target: Path) -> bool:
    """Like `copy_file`, but only where that costs no space; False, and nothing done, where it would."""
    return _copy(source, target, clone_only=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` the content of `source` at the least cost: a clone, else a hard link, else a copy.

    A hard link means that a later change of one file in place is a change of the other.
    """
    if clone_file(source, target):
        return
    try:
        with _making(target) as (directory, name):
            os.link(source, name, dst_dir_fd=directory, follow_symlinks=False)
    except OSError:
        copy_file(source, target)


def make_link(text: str, target: Path) -> None:
    """Make `target` a symbolic link to `text`, replacing a file or link that is there."""
    with naming("write", target), _making(target) as (directory, name):
        os.symlink(text, name, dir_fd=directory)


def make_directories(root: Path, relative: PurePosixPath) -> Path:
    """Make the directory `relative` inside `root`, with those above it; none of them may be a link."""
    place = root
    for part in relative.parts:
        place /= part
        with naming("make the directory", place):
            try:
                place.mkdir()
            except FileExistsError:
                mode = place.lstat().st_mode
                if not stat.S_ISDIR(mode):
                    raise InfrastructureError(
                        f"cannot make the directory {printable(place)}: there is {kind_of(mode)}"
                    ) from None
    return place


def copy_tree(source: Path, target: Path, root: Path) -> None:
    """Make `target` a copy of the file or directory `source`, which lies inside `root`.

    Nothing has been copied after a `SpecError`, which lists every link that leads out of `root` and
    every file that cannot be copied. Files in `target` that `source` does not have stay.
    """
    carry_out(checked([plan(source, PurePosixPath(target.name), root)]), target.parent)


def make_inputs(pairs: Iterable[tuple[Path, str]], root: Path, workspace: Path) -> None:
    """Copy each file or directory, which lies inside `root`, to its relative path in the workspace.

    Nothing has been copied after a `SpecError`, which lists everything that is missing, leads out of
    `root` or cannot be copied.
    """
    carry_out(checked(plan(source, relative_path(target), root) for source, target in pairs), workspace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing to make at `target`: a directory, a link to `text`, or the content of `source`."""

    kind: str
    source: Path
    target: PurePosixPath
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a copy of one file or tree consists of, and what is wrong with it."""

    items: tuple[Item, ...]
    problems: tuple[str, ...]


def plan(source: Path, target: PurePosixPath, root: Path) -> Plan:
    """What to make for a copy of `source` at `target`. Reads directories, and no file.

    A link inside the tree stays a link, made relative. A link to a file elsewhere in `root` becomes
    that file, one to a directory elsewhere in `root` a relative link to it. A link out of `root`, a
    loop, a device, a pipe and a socket are problems.
    """
    items: list[Item] = []
    problems: list[str] = []
    real_root, top = os.path.realpath(root), os.path.realpath(source)
    pending = [(source, target)]
    while pending:
        path, place = pending.pop()
        real = os.path.realpath(path)
        try:
            mode = path.lstat().st_mode
            link = stat.S_ISLNK(mode)
            if not inside(real, real_root):
                reason = "is a link that leads" if link else "lies"
                problems.append(f"{printable(path)} {reason} out of {printable(root)}")
                continue
            if link and real != top and inside(real, top):
                items.append(_relative_link(path, real, place))
                continue
            if link:
                mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                items.append(Item(kind="file", source=Path(real), target=place))
            elif not stat.S_ISDIR(mode):
                problems.append(f"{printable(path)} is {kind_of(mode)}, which cannot be copied")
            elif link and place != target:
                items.append(_relative_link(path, real, place))
            else:
                items.append(Item(kind="directory", source=Path(real), target=place))
                with os.scandir(real) as entries:
                    pending += [(path / entry.name, place / entry.name) for entry in entries]
        except OSError as error:
            problems.append(f"{printable(path)}: {error.strerror}")
    return Plan(items=tuple(sorted(items, key=lambda item: item.target)), problems=tuple(sorted(problems)))


def checked(plans: Iterable[Plan]) -> list[Item]:
    """The items of all plans; a `SpecError` with every problem of any."""
    plans = list(plans)
    problems = [problem for each in plans for problem in each.problems]
    if problems:
        raise SpecError("\n".join(problems))
    return [item for each in plans for item in each.items]


def carry_out(
    items: Iterable[Item], destination: Path, copy: Callable[[Path, Path], None] = copy_file
) -> None:
    """Make each item beneath `destination`, which is made if need be; every file atomically."""
    with naming("make the directory", destination):
        destination.mkdir(parents=True, exist_ok=True)
    made: set[PurePosixPath] = set()
    for item in items:
        directory = item.target if item.kind == "directory" else item.target.parent
        if directory not in made:
            make_directories(destination, directory)
            made.add(directory)
        if item.kind == "file":
            copy(item.source, destination / item.target)
        elif item.kind == "link":
            make_link(item.text, destination / item.target)


def _relative_link(path: Path, real: str, place: PurePosixPath) -> Item:
    text = os.path.relpath(real, os.path.realpath(path.parent))
    return Item(kind="link", source=path, target=place, text=text)


@contextmanager
def _making(target: Path) -> Iterator[tuple[int, str]]:
    """A directory and a name in it to make something under, which then replaces `target`."""
    if target.name in ("", ".."):
        raise ValueError(f"not the path of a file: {target}")
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = TEMPORARY + secrets.token_hex(8)
        try:
            yield directory, name
            os.rename(name, target.name, src_dir_fd=directory, dst_dir_fd=directory)
        finally:
            # gone after the rename, unless both names were links to one file, which rename leaves alone
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)


def _copy(source: Path, target: Path, *, clone_only: bool = False, durable: bool = False) -> bool:
    with naming("read", source):
        # a named pipe must not block the open
        reader = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(reader)
        if not stat.S_ISREG(status.st_mode):
            raise InfrastructureError(f"cannot copy {printable(source)}: it is {kind_of(status.st_mode)}")
        with naming(f"copy {printable(source)} to", target), _making(target) as (directory, name):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            writer = os.open(name, flags, 0o600, dir_fd=directory)
            try:
                if not _clone(reader, writer):
                    if clone_only:
                        raise _NoCloneError
                    _copy_content(reader, writer)
                os.fchmod(writer, status.st_mode & 0o777)
                os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
                if durable:
                    os.fsync(writer)
            finally:
                os.close(writer)
        return True
    except _NoCloneError:
        return False
    finally:
        os.close(reader)


class _NoCloneError(Exception):
    """The file system cannot share content between files."""


def _clone(reader: int, writer: int) -> bool:
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return False
        raise
    return True


def _copy_content(reader: int, writer: int) -> None:
    """Copy from the present offsets to the end, in the kernel as far as it can."""
    try:
        while os.copy_file_range(reader, writer, 1 << 30):
            pass
    except AttributeError:  # not on this system
        pass
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    # the rest: all of it where the kernel would not, and files whose size is not known beforehand
    while chunk := os.read(reader, _CHUNK):
        view = memoryview(chunk)
        while view:
            view = view[os.write(writer, view) :]
