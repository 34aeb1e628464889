"""What a run knows of its jobs: every attempt, and the answer to an engine that asks about one."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass
from typing import Any

from drawbar.cache import Cache
from drawbar.engine import Lookup
from drawbar.model import JobState, Reason
from drawbar.store import DISCARDED, AttemptRow, Store

NEW = "it has not run before"
"""Why a job is run that the run does not know yet."""
Name = tuple[str, int]
"""Identity and try number."""


@dataclass(slots=True)
class Counts:
    """How many jobs of the run are where, in this drive; `total` and `done` are as the engine counts."""

    total: int | None = None
    done: int | None = None
    queued: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cached: int = 0

    @property
    def ended(self) -> int:
        """How many of the total are done."""
        return self.finished + self.failed + self.cached if self.done is None else self.done


class History:
    """The attempts of one run, by job and in order. `cache` answers for what this run never ran.

    In memory are those of jobs that are at work: opened, and not closed yet. All others are read from
    the store when they are asked for, so that memory does not grow with the jobs that ended.
    """

    def __init__(self, store: Store, run: str, cache: Cache | None) -> None:
        self._store = store
        self._run = run
        self._cache = cache
        self._open: dict[Name, list[AttemptRow]] = {}

    def open(self, name: Name) -> list[AttemptRow]:
        """Every attempt of a job, in memory from now on: somebody is about to change them, or to add one."""
        if name not in self._open:
            self._open[name] = self._store.attempts_of(self._run, *name)
        return self._open[name]

    def close(self, name: Name) -> None:
        """What is known of a job is durable, and nobody is about to change it."""
        self._open.pop(name, None)

    def _attempts(self, name: Name) -> list[AttemptRow]:
        rows = self._open.get(name)
        return self._store.attempts_of(self._run, *name) if rows is None else rows

    def last(self, name: Name) -> AttemptRow | None:
        """The latest attempt of a job, to be read."""
        rows = self._attempts(name)
        return rows[-1] if rows else None

    def __getitem__(self, name: Name) -> AttemptRow:
        """The latest attempt of a job that has one, to be changed."""
        return self.open(name)[-1]

    def failures(self, name: Name) -> list[Reason]:
        """Why attempts of a job failed, those that count no more left out."""
        rows = (row for row in self._attempts(name) if row.outcome != DISCARDED)
        return [result.reason for row in rows if (result := row.result) is not None and result.reason]

    def discard(self, steps: Collection[str] | None = None) -> None:
        """Once that is durable, what ended of these steps, or of all, does not count and is repeated."""
        for rows in self._open.values():
            for row in rows:
                if row.state.terminal and (steps is None or row.step in steps):
                    row.outcome = DISCARDED
        self._store.discard(self._run, steps)

    def answer(self, name: Name, key: str, alive: Container[str]) -> Mapping[str, Any]:
        """What a lookup is answered (`drawbar.jobclient`); `alive` are the tags of attempts that are."""
        row = self.last(name)
        if row is None:
            return {"found": Lookup.MISS, "why": NEW, **self._elsewhere(key)}
        if row.key != key:
            return {"found": Lookup.MISS, "document": json.loads(row.document), **self._elsewhere(key)}
        if row.tag in alive:
            return {"found": Lookup.RUNNING}
        if row.outcome == DISCARDED:
            return {"found": Lookup.MISS, "why": "it is to be repeated"}
        if row.state is JobState.FINISHED:
            return {"found": Lookup.HIT, **_left(row)} if row.outcome else {"found": Lookup.RUNNING}
        identity, try_number = name
        if self._attempts((identity, try_number + 1)):
            return {"found": Lookup.HIT, **_left(row)}  # the engine went on to the next try
        return {"found": Lookup.MISS, "why": "it failed before"}

    def _elsewhere(self, key: str) -> Mapping[str, Any]:
        """What another run has for a key, if results of other runs may answer."""
        found = self._cache.get(key) if self._cache is not None else None
        if found is None:
            return {}
        places = {"workspace": str(found.workspace), "jobs": str(found.directory.jobs)}
        return {"elsewhere": {"run": found.row.run, **places, **_left(found.row)}}


def _left(row: AttemptRow) -> Mapping[str, Any]:
    """What an attempt left: its result, and what the engine recorded of it."""
    texts = (row.result_json or "null", row.value or "null", row.outputs or "[]", row.deleted or "[]")
    result, value, outputs, deleted = json.loads(f"[{','.join(texts)}]")
    return {"result": result, "value": value, "outputs": outputs, "deleted": deleted}
