"""Files that do not belong in a workspace, moved aside and never deleted."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from drawbar.copying import copy_file, make_link, naming


class Sweep:
    """Moves what has to go out of the workspace into the next numbered directory of `directory`."""

    def __init__(self, workspace: Path, directory: Path) -> None:
        self._workspace = workspace
        self._directory = directory
        self.place: Path | None = None
        self.paths: list[str] = []

    def take(self, path: str, *, directory: bool) -> None:
        """Move a file or link, or remove a directory that is empty by now."""
        source = self._workspace / path
        with naming("move aside", source):
            try:
                self._remove_directory(source) if directory else self._move(source, path)
            except PermissionError:
                # a job may have made the directory read-only
                source.parent.chmod(stat.S_IMODE(source.parent.stat().st_mode) | stat.S_IRWXU)
                self._remove_directory(source) if directory else self._move(source, path)
        self.paths.append(path)

    def _remove_directory(self, source: Path) -> None:
        try:
            source.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # what is left in it are pipes and sockets
            source.rename(self._next() / source.name)

    def _move(self, source: Path, path: str) -> None:
        if self.place is None:
            self.place = self._next()
        target = self.place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if source.is_symlink():
                make_link(str(source.readlink()), target)
            else:
                copy_file(source, target)
            source.unlink()

    def _next(self) -> Path:
        self._directory.mkdir(exist_ok=True)
        number = max((int(each.name) for each in self._directory.iterdir()), default=0) + 1
        place = self._directory / str(number)
        place.mkdir()
        return place
