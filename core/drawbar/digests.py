"""Contents of files as SHA-256 digests, remembered, so that a replay stats and does not read.

A digest is remembered under the file's (device, inode, size, mtime, ctime). A file that was touched
within the clock's granularity of being read could be changed again without a trace in these, so its
digest is given and not remembered; the next question reads it once more.

The memory is a file of lines, appended to by any number of processes. A torn or mixed-up line fails
its checksum and is skipped: whatever happens to the file costs reading again, and nothing else.
"""

# Plain strings and os functions, not Path: most of this is called for every file of a run.
# ruff: noqa: PTH115, PTH116, PTH118
from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
import zlib
from contextlib import suppress
from pathlib import Path

from drawbar.copying import inside, kind_of, naming, printable
from drawbar.errors import InfrastructureError, SpecError
from drawbar.model import FileRecord

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_SECOND = 1_000_000_000
_TICK_NS = 20_000_000
"""Time stamps of files are this coarse at most, where they are not whole seconds."""
_TRIES = 3
_BUFFERED = 512
_CHUNK = 1 << 16

_Path = str | os.PathLike[str]


class Digests:
    """Digests of files and directories, with a memory in the file `path`.

    Methods raise FileNotFoundError for what is not there, `SpecError` for a pipe, socket or device
    and `InfrastructureError` for what cannot be read. For one thread.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[int, int], tuple[int, int, int, str]] = {}
        self._unwritten: list[bytes] = []
        self._load()

    def file(self, path: _Path, status: os.stat_result | None = None) -> str:
        """The digest of a file's content; of the file that a link leads to.

        `status` spares the question when the caller has just asked for it.
        """
        if status is None:
            status = _stat(path)
        known = self._known.get((status.st_dev, status.st_ino))
        if (
            known is not None
            and known[0] == status.st_size
            and known[1] == status.st_mtime_ns
            and known[2] == status.st_ctime_ns
        ):
            return known[3]
        return self._read(path)

    def tree(self, path: _Path) -> str:
        """The digest of a directory: of its sorted entries (path, type, executable bit, content).

        A link that ends inside the directory counts by the place it leads to, one that leads out of
        it by what is there, a broken one by its text. A directory reached a second time, through
        links, counts as a repetition of the first, so that no loop of links is ever followed.
        """
        _stat(path)
        return self._tree(path)[0]

    def content(self, path: _Path) -> str:
        """The digest of a file or directory, whichever it is."""
        status = _stat(path)
        return self._tree(path)[0] if stat.S_ISDIR(status.st_mode) else self.file(path, status)

    def record(self, path: _Path, root: _Path) -> FileRecord:
        """The record of the file or directory `path` as it is now, by its path relative to `root`.

        A directory's size is the sum of its files', its modification time that of its newest entry.
        """
        relative = _relative(os.fspath(path), os.fspath(root))
        status = _stat(path)
        if stat.S_ISDIR(status.st_mode):
            digest, size, newest = self._tree(path)
            return FileRecord(path=relative, size=size, mtime_ns=newest, sha256=digest, kind="directory")
        return FileRecord(
            path=relative,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            sha256=self.file(path, status),
            executable=bool(status.st_mode & stat.S_IXUSR),
        )

    def verify(self, record: FileRecord, root: _Path) -> bool:
        """Whether what is at the record's path has the content that was recorded.

        Modification times do not count. Reads a file only when its size is right and it changed since
        its digest was taken.
        """
        path = os.path.join(root, record.path)
        try:
            if record.kind == "link":
                return text_digest(os.readlink(path)) == record.sha256
            status = _stat(path)
            if record.kind == "directory":
                if not stat.S_ISDIR(status.st_mode):
                    return False
                return not record.sha256 or self.tree(path) == record.sha256
            return (
                stat.S_ISREG(status.st_mode)
                and status.st_size == record.size
                and bool(status.st_mode & stat.S_IXUSR) == record.executable
                and self.file(path, status) == record.sha256
            )
        except (OSError, SpecError):
            return False

    def flush(self) -> None:
        """Write what was learnt to the file."""
        lines, self._unwritten = self._unwritten, []
        if not lines:
            return
        # a memory that cannot be written costs time and no result; a full disk is told by whoever needs it
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, 0o644)
            try:
                # the first line break ends a line that somebody was killed in
                os.write(descriptor, b"\n" + b"".join(lines))
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Write what was learnt; the object may go on being used."""
        self.flush()

    def _load(self) -> None:
        try:
            text = self._path.read_bytes()
        except OSError:
            return
        for line in text.split(b"\n"):
            fields, _, check = line.rpartition(b" ")
            if not fields or check != b"%08x" % zlib.crc32(fields):
                continue
            device, inode, size, modified, changed, digest = fields.split(b" ")
            self._known[int(device), int(inode)] = (int(size), int(modified), int(changed), digest.decode())

    def _read(self, path: _Path) -> str:
        for _ in range(_TRIES):
            try:
                # a named pipe must not block the open
                descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno in _ABSENT:
                    raise FileNotFoundError(error.errno, error.strerror, os.fspath(path)) from error
                if error.errno == errno.ENXIO:  # a socket
                    raise _special(path, _stat(path).st_mode) from error
                with naming("read", path):
                    raise
            try:
                started = time.time_ns()
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    raise _special(path, before.st_mode)
                content = hashlib.sha256()
                while part := os.read(descriptor, _CHUNK):
                    content.update(part)
                digest = content.hexdigest()
                after = os.fstat(descriptor)
            except OSError:
                with naming("read", path):
                    raise
            finally:
                os.close(descriptor)
            if _stamp(before) == _stamp(after):
                self._remember(after, digest, started)
                return digest
        raise InfrastructureError(f"cannot read {printable(path)}: somebody keeps writing to it")

    def _remember(self, status: os.stat_result, digest: str, started: int) -> None:
        """Remember the digest unless a change right after the reading could have the same stamp."""
        touched = max(status.st_mtime_ns, status.st_ctime_ns)
        whole_seconds = status.st_mtime_ns % _SECOND == 0 and status.st_ctime_ns % _SECOND == 0
        if touched >= started - (2 * _SECOND if whole_seconds else _TICK_NS):
            return
        stamp = _stamp(status)
        self._known[status.st_dev, status.st_ino] = (*stamp, digest)
        fields = b"%d %d %d %d %d %s" % (status.st_dev, status.st_ino, *stamp, digest.encode())
        self._unwritten.append(b"%s %08x\n" % (fields, zlib.crc32(fields)))
        if len(self._unwritten) >= _BUFFERED:
            self.flush()

    def _tree(self, path: _Path) -> tuple[str, int, int]:
        """Digest, sum of sizes and newest modification time of a directory."""
        root = os.fspath(path)
        real: str | None = None  # found out for links only
        entries: list[tuple[bytes, bytes]] = []
        size = newest = 0
        first_place: dict[tuple[int, int], str] = {}
        pending = [(root, "")]
        while pending:
            directory, prefix = pending.pop()
            try:
                with os.scandir(directory) as entries_found:
                    status = os.stat(directory)
                    found = sorted(entries_found, key=lambda entry: entry.name)
            except OSError:
                with naming("read", directory):
                    raise
            newest = max(newest, status.st_mtime_ns)
            earlier = first_place.setdefault((status.st_dev, status.st_ino), prefix)
            if earlier != prefix:
                entries.append(_entry(prefix, "again", earlier))
                continue
            entries.append(_entry(prefix, "directory", ""))
            for entry in found:
                place = f"{prefix}{entry.name}"
                try:
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISLNK(status.st_mode):
                        real = real or os.path.realpath(root)
                        target = os.path.realpath(entry.path)
                        if inside(target, real):
                            entries.append(_entry(place, "link", os.path.relpath(target, real)))
                            continue
                        try:
                            status = os.stat(entry.path)
                        except OSError as error:
                            if error.errno not in _ABSENT:
                                raise
                            entries.append(_entry(place, "broken", os.readlink(entry.path)))
                            continue
                except OSError:
                    with naming("read", entry.path):
                        raise
                newest = max(newest, status.st_mtime_ns)
                if stat.S_ISDIR(status.st_mode):
                    pending.append((entry.path, f"{place}/"))
                    continue
                if not stat.S_ISREG(status.st_mode):
                    raise _special(entry.path, status.st_mode)
                size += status.st_size
                kind = "executable" if status.st_mode & stat.S_IXUSR else "file"
                entries.append(_entry(place, kind, self.file(entry.path, status)))
        digest = hashlib.sha256()
        for place_bytes, rest in sorted(entries):
            digest.update(place_bytes + rest)
        return digest.hexdigest(), size, newest


def text_digest(text: str) -> str:
    """The digest that a link to `text` is recorded with."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _relative(path: str, root: str) -> str:
    """The path relative to `root`; at no cost for one that is written beneath it."""
    if path.startswith(f"{root}/") and os.path.normpath(path) == path:
        return path[len(root) + 1 :]
    return os.path.relpath(path, root)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _entry(place: str, kind: str, value: str) -> tuple[bytes, bytes]:
    """A line of a directory's listing; no part can hold a NUL, so no two listings read the same."""
    return os.fsencode(place), b"\0%s\0%s\0" % (kind.encode(), os.fsencode(value))


def _stat(path: _Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(error.errno, error.strerror, os.fspath(path)) from error
        with naming("read", path):
            raise


def _special(path: _Path, mode: int) -> SpecError:
    return SpecError(
        f"{printable(path)} is {kind_of(mode)}; only files, directories and links can be recorded"
    )
