"""Results of other runs: which accepted job last had a key. Opt-in (`cache = true`), successes only.

One SQLite file in the home, shared by every driver. It only points at runs: what it says is checked
against the run's own store and files, so that losing it, or a run that it names, costs a repetition.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drawbar.errors import DrawbarError, StoreError
from drawbar.home import Home, RunDirectory
from drawbar.model import JobState
from drawbar.store import ACCEPTED, AttemptRow, Store, on_network

_SCHEMA = """
CREATE TABLE IF NOT EXISTS result (
    key TEXT PRIMARY KEY, run TEXT NOT NULL, tag TEXT NOT NULL, time REAL NOT NULL
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A job of another run, and where that run keeps its files."""

    row: AttemptRow
    workspace: Path
    directory: RunDirectory


class Cache:
    """The results of all runs under `home`. For one thread; `StoreError` when it cannot be opened."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._fresh: list[tuple[str, str, str, float]] = []
        path = home.path / "cache.sqlite"
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=10)
            self._db.execute(f"PRAGMA journal_mode = {'DELETE' if on_network(path) else 'WAL'}")
            self._db.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"cannot open the cache {path}: {error}") from error

    def get(self, key: str) -> Remembered | None:
        """The accepted job that last had this key, or None; whether its files are right is not checked."""
        with suppress(sqlite3.Error, DrawbarError):
            found = self._db.execute("SELECT run, tag FROM result WHERE key = ?", (key,)).fetchone()
            if found is None:
                return None
            directory = RunDirectory(self._home.runs_path / found[0])
            if not directory.store.exists():
                return None
            with Store(directory.store, read_only=True) as store:
                row = store.attempt(found[1])
            if row is not None and row.state is JobState.FINISHED and row.outcome == ACCEPTED:
                return Remembered(row, Path(directory.spec().workspace), directory)
        return None

    def put(self, row: AttemptRow) -> None:
        """Remember an accepted job, once it is durable: with the next `flush`."""
        self._fresh.append((row.key, row.run, row.tag, time.time()))

    def flush(self) -> None:
        """Write what is to be remembered. A cache that cannot be written fails nothing."""
        if not self._fresh:
            return
        with suppress(sqlite3.Error):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR REPLACE INTO result VALUES (?, ?, ?, ?)", self._fresh)
            self._db.execute("COMMIT")
        self._fresh.clear()

    def close(self) -> None:
        """Close the file."""
        self._db.close()
