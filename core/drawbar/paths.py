"""Paths that come from a specification: relative, and inside the directory they belong to.

Text alone cannot tell where a path leads, since any part of it may be a symbolic link. So a path is
checked twice: its text when the analysis is read (`normal`), and what it resolves to whenever it is
used (`inside`, `existing`, `walk`). Every error is a `SpecError` that names the path and what it
was for.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from drawbar.documents import brief
from drawbar.errors import Problem, SpecError
from drawbar.options import did_you_mean

_MOST_LINKED_DIRECTORIES = 1000
_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file or directory below a root: `path` relative to the root, `source` where its content is."""

    path: str
    source: Path
    directory: bool = False


def normal(text: str, what: str) -> str:
    """A relative path in its shortest spelling: no `.`, no `..`, no doubled or final slash.

    Looks at nothing on disk. Raises when the path is empty, absolute, holds a control character, or
    leaves the directory it is relative to.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise _error(what, text, "holds a control character", "rename the file")
    if len(text) > _LONGEST_PATH:
        raise _error(what, text, f"is longer than {_LONGEST_PATH} characters", "choose a shorter name")
    if text.startswith("/"):
        hint = "write a path relative to the directory of the analysis"
        raise _error(what, text, "is absolute", hint)
    path = posixpath.normpath(text) if text else ""
    if path == ".." or path.startswith("../"):
        hint = "copy what it names into the directory of the analysis"
        raise _error(what, text, "leaves the directory of the analysis", hint)
    if path in ("", "."):
        raise _error(what, text, "names no file or directory", "list what is needed by name")
    return path


def inside(root: Path, text: str, what: str) -> Path:
    """The path of `text` below `root`, which may or may not exist.

    After success, following every link on the way stays in `root`. Raises when the text is not
    `normal`, or a link leads out.
    """
    path = root / normal(text, what)
    top = os.path.realpath(root)
    target = os.path.realpath(path)
    if target != top and not target.startswith(top.rstrip("/") + "/"):
        hint = "replace the link by a copy of what it names"
        raise _error(what, text, f"is a symbolic link that leads out, to {brief(target)}", hint)
    return path


def existing(root: Path, text: str, what: str, *, directory: bool = False) -> Path:
    """As `inside`, for a regular file, or a directory, that exists."""
    path = inside(root, text, what)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise _error(what, text, "does not exist", _nearest(path)) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _error(what, text, f"cannot be read: {reason}") from error
    if directory and not stat.S_ISDIR(mode):
        raise _error(what, text, "is not a directory", "name a directory, or list it under files")
    if not directory and not stat.S_ISREG(mode):
        message = "is a directory" if stat.S_ISDIR(mode) else "is not a regular file"
        raise _error(what, text, message, "name a file, or list it under directories")
    return path


def walk(root: Path, text: str, what: str, *, listed: bool = True) -> Iterator[Entry]:
    """The directory `text` below `root` (the empty text is `root` itself) and all that is in it.

    Parents come first, names in sorted order. Links are followed: an entry is a file or a
    directory, never a link. Raises for a link that leads out of `root`, that names a directory it
    is itself in, or that names nothing; for what is neither file nor directory; and for what cannot
    be read. In a directory that nobody `listed`, all of these and hidden names are left out.
    """
    top = existing(root, text, what, directory=True) if text else root
    linked = 0
    todo: list[tuple[str, tuple[str, ...]]] = [(normal(text, what) if text else "", (os.path.realpath(top),))]
    while todo:
        directory, ancestors = todo.pop()
        below = []
        try:
            names = sorted(os.listdir(root / directory))  # noqa: PTH208 (names are all that is needed)
        except OSError as error:
            if listed:
                raise _error(what, directory, f"cannot be read: {error.strerror}") from error
            continue
        if directory:
            yield Entry(path=directory, source=root / directory, directory=True)
        for name in names:
            if name.startswith(".") and not listed:
                continue
            path = posixpath.join(directory, name)
            try:
                real = _kind(root, path, what)
                if real is not None and root.joinpath(path).is_symlink():
                    linked += 1
                    if real in ancestors or linked > _MOST_LINKED_DIRECTORIES:
                        raise _error(what, path, "is a link to a directory that it is in", "remove the link")
            except SpecError:
                if listed:
                    raise
            else:
                if real is None:
                    yield Entry(path=path, source=root / path)
                else:
                    below.append((path, (*ancestors, real)))
        todo.extend(reversed(below))


def _kind(root: Path, path: str, what: str) -> str | None:
    """The real path of a directory found below `root`, or None for a file; raises for all else."""
    source = root / path
    try:
        if source.is_symlink():
            inside(root, path, what)
        mode = source.stat().st_mode
    except FileNotFoundError as error:
        raise _error(what, path, "is a symbolic link to nothing", "remove the link") from error
    except OSError as error:
        raise _error(what, path, f"cannot be read: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        return os.path.realpath(source)
    if not stat.S_ISREG(mode):
        raise _error(what, path, "is neither a file nor a directory", "remove it")
    return None


def _error(what: str, text: str, message: str, hint: str | None = None) -> SpecError:
    return SpecError(Problem(message=f"{what}: {brief(text)} {message}", hint=hint))


def _nearest(path: Path) -> str | None:
    """A hint that names what is there instead, when a name was misspelt."""
    try:
        names = os.listdir(path.parent)  # noqa: PTH208 (names are all that is needed)
    except OSError:
        return None
    hint = did_you_mean(path.name, names[:1000])
    return hint if hint and hint.startswith("did you mean") else None
