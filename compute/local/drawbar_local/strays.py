"""Jobs whose supervisor tells no more: it is dead, or out of reach.

Those of a dead supervisor of this machine are ended. The others are only looked at. Each is told to
have ended when nobody holds its lock and, on this machine, no process carries its tag.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from drawbar.backend import Attempt, JobStatus

from drawbar_local import processes, records, results

HOST = os.uname().nodename
FIRST_LOOK_S, LONGEST_LOOK_S = 0.02, 1.0
"""How often is looked: soon at first, less and less often when it takes long."""
TROUBLE_S = 30.0
"""How long it may take before the user hears of it."""


class Strays:
    """A set of such jobs. Every method may be called from any thread, `look` from one."""

    def __init__(self) -> None:
        self.pause_s = FIRST_LOOK_S
        self._attempts: dict[str, Attempt] = {}
        self._since = 0.0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, tag: str) -> bool:
        return tag in self._attempts

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Take care of these."""
        with self._lock:
            self._since = time.monotonic()
            self.pause_s = FIRST_LOOK_S
            self._attempts.update({attempt.tag: attempt for attempt in attempts})

    def stop(self, attempts: Sequence[Attempt]) -> None:
        """Kill those of these that are here."""
        chosen = {attempt.tag: attempt.record for attempt in attempts if attempt.tag in self._attempts}
        if chosen:
            processes.kill(chosen)

    def look(self, trouble: Callable[[str], None]) -> list[JobStatus]:
        """End what is to be ended, and give the ends of those with nothing left."""
        with self._lock:
            attempts = list(self._attempts.values())
            self.pause_s = min(2 * self.pause_s, LONGEST_LOOK_S)
        seen: list[tuple[Attempt, records.Record | None]] = []
        orphans: dict[str, str] = {}
        alive: dict[tuple[int, int | None], bool] = {}
        for attempt in attempts:
            try:
                record = records.read(attempt.record)
            except OSError as error:
                trouble(f"the record of {attempt.spec.name} cannot be read: {error}")
                continue
            seen.append((attempt, record))
            claim = record.claim if record else None
            if claim and claim["host"] != HOST:
                continue
            supervisor = (claim["supervisor"], claim["since"]) if claim else (0, None)
            if supervisor not in alive:
                alive[supervisor] = claim is not None and processes.alive(*supervisor)
            if not alive[supervisor]:
                orphans[attempt.tag] = attempt.record
                if record and record.held and record.start:
                    processes.kill_group(record.start["pid"], supervisor[0])
        left = processes.kill(orphans) if orphans else set()
        ends = [
            results.ended(attempt, record.end) if record and record.end else results.lost(attempt)
            for attempt, record in seen
            if attempt.tag not in left and not (record and record.held)
        ]
        with self._lock:
            for end in ends:
                self._attempts.pop(end.tag, None)
            if self._attempts and time.monotonic() > self._since + TROUBLE_S:
                self._since = time.monotonic()
                names = ", ".join(sorted(each.spec.name for each in self._attempts.values())[:5])
                trouble(f"waiting for the processes of jobs without a supervisor: {names}")
        return ends
