"""Looking into a workspace and into logs.

Names come from a specification, and a workspace may hold any symbolic link: nothing outside of the
workspace is read. Files are read in pieces, whatever their size.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from drawbar.checks.evidence import Failed
from drawbar.documents import brief

_CHUNK = 1 << 20
_BLOCK = 4096
_LONGEST_LINE = 4096
_LONGEST_SHOWN = 300
_TAIL = 4 << 20


def entries(workspace: Path, name: str) -> list[str]:
    """The entries of the workspace, relative to it, with this name or, failing that, matching it."""
    found = [workspace / name] if os.path.lexists(workspace / name) else []
    if not found and re.search(r"[*?\[]", name):
        found = sorted(workspace.glob(name))
    return [str(path.relative_to(workspace)) for path in found if _within(workspace, path.parent)]


def only_file(workspace: Path, name: str) -> Path:
    """The one regular file of the workspace with this name, or matching it; else raises `Failed`."""
    found = entries(workspace, name)
    if not found:
        raise Failed(f"expected a file {name}, {instead(workspace, name)}")
    if len(found) > 1:
        raise Failed(f"expected one file {name}, found {listed(found)}")
    path = workspace / found[0]
    if not _within(workspace, path):
        raise Failed(f"expected a file {name} in the workspace, it is a link that leads out of it")
    if not path.is_file():
        raise Failed(f"expected a file {name}, it is {'a directory' if path.is_dir() else 'no regular file'}")
    return path


def instead(workspace: Path, name: str) -> str:
    """Says what there is where a missing file was expected."""
    directory = (workspace / name).parent
    while directory != workspace and not directory.is_dir():
        directory = directory.parent
    if not _within(workspace, directory):
        return "the way there leads out of the workspace"
    names = sorted(path.name for path in islice(directory.iterdir(), 1000))
    place = "the workspace" if directory == workspace else f"{directory.relative_to(workspace)}/"
    return f"found in {place}: {listed(names)}" if names else f"{place} is empty"


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def disk_usage(workspace: Path) -> int:
    """The bytes that a workspace occupies, each file and directory in whole blocks of 4 KiB.

    REANA measures with `du`; whole blocks give what `du` gives on a common file system, on any.
    Symbolic links count nothing and are not followed, hard links count once.
    """
    total, seen = _BLOCK, set()
    for parent, directories, files in os.walk(workspace, onerror=_raise):
        for name in directories + files:
            status = Path(parent, name).lstat()
            if stat.S_ISDIR(status.st_mode):
                total += _BLOCK
            elif stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                total += -(-status.st_size // _BLOCK) * _BLOCK
                if status.st_nlink > 1:
                    seen.add((status.st_dev, status.st_ino))
    return total


def checksum(path: Path, algorithm: str) -> str:
    """The file's checksum in lower-case hexadecimal digits; any algorithm of hashlib, or adler32."""
    with path.open("rb") as stream:
        if algorithm != "adler32":
            return hashlib.file_digest(
                stream, lambda: hashlib.new(algorithm, usedforsecurity=False)
            ).hexdigest()
        value = 1
        while chunk := stream.read(_CHUNK):
            value = zlib.adler32(chunk, value)
        return f"{value:08x}"


def expect_text(files: Iterable[Path], text: str, where: str) -> None:
    """Raises `Failed`, naming the nearest line there is, unless one of the files contains the text."""
    files = [path for path in files if path.is_file()]
    if not _missing(files, [text]):
        return
    lines = [line for line in text.splitlines() if line.strip()] or [text]
    expected = f"expected in {where}: {brief(text if len(lines) == 1 else lines[0], _LONGEST_SHOWN)}"
    if len(lines) > 1:
        expected += f" and {len(lines) - 1} more below it"
    missing = _missing(files, lines)
    if not missing:
        raise Failed(f"{expected}; all of them are there, but not one after the other")
    if missing[0] != lines[0]:
        expected += f"; not there is {brief(missing[0], _LONGEST_SHOWN)}"
    nearest = _nearest(files, missing[0])
    found = f"the nearest line is {brief(nearest, _LONGEST_SHOWN)}" if nearest else "no line is similar"
    raise Failed(f"{expected}; {found}")


def _missing(files: Sequence[Path], texts: Sequence[str]) -> list[str]:
    """Those of the texts that none of the files contains, in order."""
    wanted = {text: text.encode() for text in texts}
    overlap = max(len(each) for each in wanted.values()) - 1
    for path in files:
        with path.open("rb") as stream:
            window = b""
            while wanted and (chunk := stream.read(_CHUNK)):
                window += chunk
                wanted = {text: each for text, each in wanted.items() if each not in window}
                window = window[max(0, len(window) - overlap) :]
    return list(wanted)


def _nearest(files: Sequence[Path], text: str) -> str | None:
    """The line that has most words in common with the text, of those that have any."""
    words = set(re.findall(r"\w+", text))
    best, most = None, 0
    for line in _last_lines(files):
        common = len(words.intersection(re.findall(r"\w+", line)))
        if common > most:
            best, most = line, common
    return best


def _last_lines(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL))
            while line := stream.readline(_LONGEST_LINE):
                yield line.decode(errors="replace").strip()


def _within(workspace: Path, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(workspace))


def _raise(error: OSError) -> None:
    raise error
