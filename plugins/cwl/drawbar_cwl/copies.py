"""Copies of what lies outside of the run, for containers, which see the run's own directories only."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from drawbar.copying import copy_file


class Copies:
    """Copies under `place`, made once for all the jobs of a run; `inside` is what needs none."""

    def __init__(self, place: Path, inside: Iterable[Path]) -> None:
        self._place = place
        self._inside = tuple(inside)

    def wanted(self, path: str) -> bool:
        """Whether a container would not see the file or directory."""
        return path.startswith("/") and not any(Path(path).is_relative_to(each) for each in self._inside)

    def of(self, path: str) -> str:
        """Where the copy is; one is made when there is none of the file as it is now."""
        status = os.stat(path)  # noqa: PTH116 (a string in, a string out)
        version = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {path}"
        own = self._place / hashlib.sha256(version.encode()).hexdigest()[:20]
        copy = own / (Path(path).name or "root")
        if not copy.exists():
            making = own / "making"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            if Path(path).is_dir():
                shutil.copytree(path, making, symlinks=True, copy_function=_copy)
            else:
                copy_file(Path(path), making)
            making.rename(copy)
        return str(copy)


def _copy(source: str, target: str) -> None:
    copy_file(Path(source), Path(target))
