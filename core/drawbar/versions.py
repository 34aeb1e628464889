"""Contents of files, kept by digest, so that an overwritten or deleted file can be had again."""

from __future__ import annotations

import os
from pathlib import Path

from drawbar.copying import clone_file, copy_file, naming
from drawbar.digests import Digests
from drawbar.errors import InfrastructureError

_MIB = 1 << 20


class Versions:
    """Kept contents in `directory`: clones where the file system can, which cost no space, else copies.

    Copies take `budget_mib` MiB at most; what would take more is not kept.
    """

    def __init__(self, directory: Path, digests: Digests, budget_mib: int) -> None:
        self._directory = directory
        self._digests = digests
        self._budget = budget_mib * _MIB
        self._used: int | None = None
        self._clones = True
        with naming("make the directory", directory):
            directory.mkdir(parents=True, exist_ok=True)

    def keep(self, path: Path, sha256: str) -> bool:
        """Keep the content of the file `path`, which has this digest; False when it cannot be kept."""
        target = self._directory / sha256
        if target.exists():
            return True
        try:
            self._clones = self._clones and clone_file(path, target)
            if self._clones:
                return True
            size = path.stat().st_size
            if self._room() < size:
                return False
            copy_file(path, target)
        except (InfrastructureError, OSError):
            return False  # to keep is an offer: without the copy the run starts over, should it be needed
        self._used = (self._used or 0) + size
        return True

    def keep_text(self, text: str, sha256: str) -> None:
        """Keep the text of a link, whatever the budget."""
        target = self._directory / sha256
        if not target.exists():
            with naming("write", target):
                unfinished = target.with_suffix(".tmp")
                unfinished.write_bytes(os.fsencode(text))
                unfinished.replace(target)

    def find(self, sha256: str) -> Path | None:
        """The file that holds the content with this digest, or None; its content is checked."""
        path = self._directory / sha256
        try:
            return path if self._digests.file(path) == sha256 else None
        except (OSError, InfrastructureError):
            return None

    def _room(self) -> int:
        if self._used is None:
            with os.scandir(self._directory) as entries:
                self._used = sum(entry.stat().st_size for entry in entries)
        return self._budget - self._used
