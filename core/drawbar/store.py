"""The durable record of a run: its state, its lease, and every attempt of every job.

One SQLite file in the run's directory, written only by the driver that holds the lease. Writes are
gathered and made durable together by `commit`: the driver commits once per round of its loop, before
it acts on what it decided. A commit that failed, on a full disk for instance, can be tried again:
what was gathered is kept. Every commit checks the lease's epoch, so that a driver that lost its run
cannot write. Anybody may read, at any time.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from drawbar.codec import decode
from drawbar.errors import LeaseError, StoreError
from drawbar.lease import Lease
from drawbar.model import JobResult, JobSpec, JobState, RunState

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE run (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, message TEXT NOT NULL DEFAULT '',
    started REAL, finished REAL, total INTEGER, facts TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1), host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL,
    started TEXT NOT NULL, heartbeat REAL NOT NULL, epoch INTEGER NOT NULL
);
CREATE TABLE attempt (
    tag TEXT PRIMARY KEY, run TEXT NOT NULL, identity TEXT NOT NULL, try INTEGER NOT NULL,
    number INTEGER NOT NULL, step TEXT NOT NULL, name TEXT NOT NULL, key TEXT NOT NULL,
    document TEXT NOT NULL, spec TEXT NOT NULL, record TEXT NOT NULL, backend TEXT NOT NULL,
    state TEXT NOT NULL, native_state TEXT NOT NULL DEFAULT '', native_id TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '', batch TEXT NOT NULL DEFAULT '', created REAL NOT NULL,
    submitted REAL, result TEXT, outcome TEXT, value TEXT, outputs TEXT, deleted TEXT, origin TEXT
);
CREATE INDEX attempt_of_job ON attempt (run, identity, try, number);
CREATE TABLE consumed (run TEXT NOT NULL, path TEXT NOT NULL, PRIMARY KEY (run, path)) WITHOUT ROWID;
CREATE TABLE source (
    run TEXT NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (run, path)
) WITHOUT ROWID;
"""

ACCEPTED = "accepted"
REJECTED = "rejected"
DISCARDED = "discarded"
"""What became of an ended attempt: the engine took its outputs, refused them, or they no longer count."""

_ENDS = ", ".join(f"'{state}'" for state in JobState if state.terminal)
_TRANSIENT = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_IOERR})


@dataclass(slots=True)
class AttemptRow:
    """An attempt as it is stored. JSON columns are decoded when asked for."""

    tag: str
    run: str
    identity: str
    try_number: int
    number: int
    step: str
    name: str
    key: str
    document: str
    spec_json: str
    record: str
    backend: str
    state: JobState
    native_state: str = ""
    native_id: str = ""
    message: str = ""
    batch: str = ""
    created: float = 0.0
    submitted: float | None = None
    result_json: str | None = None
    outcome: str | None = None
    value: str | None = None
    outputs: str | None = None
    deleted: str | None = None
    origin: str | None = None
    """The run whose job answered for this one, when it came from the cache."""

    @property
    def job(self) -> tuple[str, int]:
        """The job that it is an attempt of: identity and try number."""
        return (self.identity, self.try_number)

    @property
    def spec(self) -> JobSpec:
        """What was asked for."""
        return decode(JobSpec, json.loads(self.spec_json))

    @property
    def result(self) -> JobResult | None:
        """What came of it; None while it has not ended."""
        return decode(JobResult, json.loads(self.result_json)) if self.result_json else None


_COLUMNS = (
    "tag, run, identity, try, number, step, name, key, document, spec, record, backend, state, native_state, "
    "native_id, message, batch, created, submitted, result, outcome, value, outputs, deleted, origin"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run as it is stored. `facts` is what else is known of it, such as versions."""

    id: str
    state: RunState
    message: str
    started: float | None
    finished: float | None
    total: int | None
    facts: Mapping[str, Any]


class Store:
    """A run's store, opened for reading; `acquire` makes this process its writer."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._epoch: int | None = None
        self._gathered: list[tuple[str, list[tuple[Any, ...]]]] = []
        with self._naming("open"):
            mode = "ro" if read_only else "rwc"
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=30
            )
            try:
                self._prepare(read_only)
            except BaseException:
                self._db.close()
                raise

    def _prepare(self, read_only: bool) -> None:
        if not read_only:
            # On file systems where WAL's shared memory cannot work SQLite keeps its rollback journal.
            self._db.execute(f"PRAGMA journal_mode = {'DELETE' if on_network(self.path) else 'WAL'}")
            self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            if read_only:  # somebody is about to make it, or was killed at that
                self._db.close()
                self._db = sqlite3.connect(":memory:", isolation_level=None)
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("PRAGMA user_version").fetchone() == (0,):
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            self._db.execute("COMMIT")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has version {version}, this drawbar reads version {SCHEMA_VERSION}; "
                "use the drawbar that made it"
            )

    # the lease

    def lease(self) -> Lease | None:
        """The lease as it is stored, held or given back."""
        with self._naming("read"):
            row = self._db.execute("SELECT host, boot, pid, started, heartbeat, epoch FROM lease").fetchone()
        if row is None:
            return None
        host, boot, pid, started, heartbeat, epoch = row
        return Lease(host=host, boot=boot, pid=pid, started=started, heartbeat=heartbeat, epoch=epoch)

    def acquire(self, *, take_over: bool = False) -> None:
        """Become the one writer.

        `LeaseError` when another driver is, or may be, alive; `take_over` is the user's word that a
        silent one on another host is not.
        """
        with self._naming("lease"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                held = self.lease()
                if held is not None and held.pid and not held.takeable:
                    if held.alive is not False:
                        raise LeaseError(f"the run is driven by {held}; wait for it, or cancel it there")
                    if not take_over:
                        raise LeaseError(
                            f"the run was driven by {held}, which has been silent for "
                            f"{time.time() - held.heartbeat:.0f} s; if it is gone for good, say --take-over"
                        )
                own = Lease.own()
                self._epoch = (held.epoch if held else 0) + 1
                self._db.execute(
                    "INSERT OR REPLACE INTO lease VALUES (1, ?, ?, ?, ?, ?, ?)",
                    (own.host, own.boot, own.pid, own.started, own.heartbeat, self._epoch),
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._epoch = None
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def beat(self) -> None:
        """Show that this driver lives; part of the next commit."""
        self._write("UPDATE lease SET heartbeat = ?", [(time.time(),)])

    def release(self) -> None:
        """Give the lease back, with everything written so far."""
        self._write("UPDATE lease SET pid = 0", [()])
        self.commit()
        self._epoch = None

    # writing

    @property
    def pending(self) -> bool:
        """Whether anything was written since the last commit."""
        return bool(self._gathered)

    def commit(self) -> None:
        """Make everything written since the last commit durable, all or nothing.

        `LeaseError` when another driver took the run over; nothing of it is written then. After a
        `StoreError` nothing is written and nothing is forgotten: commit again.
        """
        if not self._gathered:
            return
        with self._naming("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                (epoch,) = self._db.execute("SELECT epoch FROM lease").fetchone() or (None,)
                if self._epoch is None or epoch != self._epoch:
                    raise LeaseError("another driver took this run over; this one stops")
                for statement, rows in self._gathered:
                    self._db.executemany(statement, rows)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._gathered.clear()

    def _write(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        values = [tuple(map(_stored, row)) for row in rows]
        if self._gathered and self._gathered[-1][0] == statement:
            self._gathered[-1][1].extend(values)
        else:
            self._gathered.append((statement, values))

    def add_run(self, run: str) -> None:
        """A new run, in state created; it may be there already."""
        self._write("INSERT OR IGNORE INTO run (id, state) VALUES (?, 'created')", [(run,)])

    def set_run(self, run: str, **values: Any) -> None:
        """Change columns of a run: state, message, started, finished, total, facts."""
        if "facts" in values:
            values["facts"] = json.dumps(values["facts"])
        columns = ", ".join(f"{name} = ?" for name in values)
        self._write(f"UPDATE run SET {columns} WHERE id = ?", [(*values.values(), run)])  # noqa: S608

    def add_attempts(self, rows: Sequence[AttemptRow]) -> None:
        """New attempts."""
        marks = ", ".join("?" * 25)
        self._write(
            f"INSERT INTO attempt ({_COLUMNS}) VALUES ({marks})",  # noqa: S608
            [
                (
                    *(row.tag, row.run, row.identity, row.try_number, row.number, row.step, row.name),
                    *(row.key, row.document, row.spec_json, row.record, row.backend, row.state),
                    *(row.native_state, row.native_id, row.message, row.batch, row.created, row.submitted),
                    *(row.result_json, row.outcome, row.value, row.outputs, row.deleted, row.origin),
                )
                for row in rows
            ],
        )

    def set_states(self, rows: Sequence[AttemptRow]) -> None:
        """Write state, native state and id, message, batch, time of submission and result of attempts."""
        self._write(
            "UPDATE attempt SET state = ?, native_state = ?, native_id = ?, message = ?, batch = ?, "
            "submitted = ?, result = ? WHERE tag = ?",
            [
                (
                    *(row.state, row.native_state, row.native_id, row.message, row.batch),
                    *(row.submitted, row.result_json, row.tag),
                )
                for row in rows
            ],
        )

    def set_outcomes(self, rows: Sequence[AttemptRow]) -> None:
        """Write what became of attempts: outcome, result, value, outputs."""
        self._write(
            "UPDATE attempt SET outcome = ?, result = ?, state = ?, value = ?, outputs = ?, deleted = ? "
            "WHERE tag = ?",
            [
                (row.outcome, row.result_json, row.state, row.value, row.outputs, row.deleted, row.tag)
                for row in rows
            ],
        )

    def discard(self, run: str, steps: Iterable[str] | None) -> None:
        """What became of the ended attempts of these steps, or of all, does not count any more."""
        change = f"UPDATE attempt SET outcome = '{DISCARDED}' WHERE run = ? AND state IN ({_ENDS})"  # noqa: S608
        if steps is None:
            self._write(change, [(run,)])
        else:
            self._write(f"{change} AND step = ?", [(run, step) for step in steps])

    def add_consumed(self, run: str, paths: Iterable[str]) -> None:
        """Outputs that the engine deleted on purpose."""
        self._write("INSERT OR IGNORE INTO consumed VALUES (?, ?)", [(run, path) for path in paths])

    def set_sources(self, run: str, digests: Mapping[str, str]) -> None:
        """The source files of a run's workspace, by relative path, replacing those before."""
        self._write("DELETE FROM source WHERE run = ?", [(run,)])
        self._write("INSERT INTO source VALUES (?, ?, ?)", [(run, *item) for item in digests.items()])

    # reading

    def run(self, run: str) -> RunRow | None:
        """A run by its id."""
        with self._naming("read"):
            row = self._db.execute(
                "SELECT id, state, message, started, finished, total, facts FROM run WHERE id = ?", (run,)
            ).fetchone()
        if row is None:
            return None
        name, state, message, started, finished, total, facts = map(_read, row)
        return RunRow(
            id=name,
            state=RunState(state),
            message=message,
            started=started,
            finished=finished,
            total=total,
            facts=json.loads(facts),
        )

    def attempts(self, run: str) -> Iterator[AttemptRow]:
        """Every attempt of a run, in order of creation; read while the store is open."""
        return self._attempts("WHERE run = ? ORDER BY created, rowid", run)

    def attempts_of(self, run: str, identity: str, try_number: int) -> list[AttemptRow]:
        """Every attempt of one job, in order."""
        one = "WHERE run = ? AND identity = ? AND try = ? ORDER BY number"
        return list(self._attempts(one, run, identity, try_number))

    def unended(self, run: str) -> list[AttemptRow]:
        """The attempts of a run of which no end is recorded, in order of creation."""
        return list(self._attempts(f"WHERE run = ? AND state NOT IN ({_ENDS}) ORDER BY created, rowid", run))

    def latest(self, run: str) -> Iterator[AttemptRow]:
        """The last attempt of each job, in the order in which the jobs were first asked for."""
        same = "one.run = attempt.run AND one.identity = attempt.identity AND one.try = attempt.try"
        later = f"SELECT 1 FROM attempt AS one WHERE {same} AND one.number > attempt.number"  # noqa: S608
        first = f"SELECT min(one.rowid) FROM attempt AS one WHERE {same}"  # noqa: S608
        return self._attempts(f"WHERE run = ? AND NOT EXISTS ({later}) ORDER BY ({first})", run)

    def quiet_since(self, run: str) -> float | None:
        """When the last attempt was over, in seconds since the epoch; None while one may be alive."""
        with self._naming("read"):
            alive, last = self._db.execute(
                "SELECT count(*) - count(result), max(json_extract(result, '$.finished')) FROM attempt "
                "WHERE run = ?",
                (run,),
            ).fetchone()
        return None if alive else last

    def outputs(self, run: str) -> set[str]:
        """The paths that accepted jobs wrote."""
        with self._naming("read"):
            rows = self._db.execute(
                "SELECT outputs FROM attempt WHERE run = ? AND outcome = ?", (run, ACCEPTED)
            )
            return {record["path"] for (outputs,) in rows for record in json.loads(outputs or "[]")}

    def backends(self, run: str) -> list[str]:
        """Where the jobs of a run were."""
        with self._naming("read"):
            rows = self._db.execute("SELECT DISTINCT backend FROM attempt WHERE run = ?", (run,))
            return sorted(_read(backend) for (backend,) in rows)

    def attempt(self, tag: str) -> AttemptRow | None:
        """An attempt by its tag."""
        return next(self._attempts("WHERE tag = ?", tag), None)

    def _attempts(self, which: str, *values: Any) -> Iterator[AttemptRow]:
        with self._naming("read"):
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM attempt {which}", [*map(_stored, values)])  # noqa: S608
            yield from map(_row, rows)

    def consumed(self, run: str) -> set[str]:
        """Outputs that the engine deleted on purpose."""
        with self._naming("read"):
            rows = self._db.execute("SELECT path FROM consumed WHERE run = ?", (run,))
            return {_read(path) for (path,) in rows}

    def sources(self, run: str) -> dict[str, str]:
        """Digests of the source files in the workspace, by relative path."""
        with self._naming("read"):
            rows = self._db.execute("SELECT path, sha256 FROM source WHERE run = ?", (run,))
            return {_read(path): sha256 for path, sha256 in rows}

    def close(self) -> None:
        """Close the file; what was not committed is dropped."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _naming(self, action: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The low byte is the primary code; the rest says where it happened.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            message = f"cannot {action} the store {self.path}: {error}"
            raise StoreError(message, transient=code in _TRANSIENT) from error


_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "lustre",
        "beegfs",
        "gpfs",
        "ceph",
        "afs",
        "9p",
        "fuse.sshfs",
        "fuse.eosxd",
    }
)


def on_network(path: Path) -> bool:
    """Whether a file lies on a network file system, as far as the mount table tells."""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return False
    place = path.absolute().resolve()
    best, kind = "", ""
    for line in mounts:
        _, point, file_system, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if len(point) >= len(best) and (point == "/" or f"{place}/".startswith(f"{point}/")):
            best, kind = point, file_system
    return kind in _NETWORK


def _row(columns: Sequence[Any]) -> AttemptRow:
    row = AttemptRow(*(map(_read, columns) if bytes in map(type, columns) else columns))
    row.state = JobState(row.state)
    return row


def _stored(value: Any) -> Any:
    """A value as SQLite takes it: text that has no UTF-8 form, such as some file names, as bytes.

    TypeError for what it does not take, so that whoever wrote it hears of it, and no later commit.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogatepass")
        return value
    if value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    raise TypeError(f"{value!r} cannot be stored")


def _read(value: Any) -> Any:
    return value.decode(errors="surrogatepass") if isinstance(value, bytes) else value
