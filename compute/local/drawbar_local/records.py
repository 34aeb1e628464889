"""The record file of an attempt: who claimed it, when it started, how it ended.

`record` in the attempt's directory holds one JSON object a line, each appended by a single write:

    {"claim": {"host", "supervisor", "since", "socket"}}    a supervisor took the attempt
    {"start": {"pid", "time"}}                              its process group exists
    {"end": {...}}                                          how it ended, see `drawbar_local.supervisor`
    {"void": {"issuer", "turn"}}                            a driver found it unclaimed and closed it

Whoever locks the file (flock, exclusive) while it has no line but voids may write the claim, so an
attempt is started at most once. The lock belongs to the supervisor and, through the descriptor
`LOCK_FD` that they inherit, to all processes of the job: a lock that is held means alive, whatever
the process ids; a free one with an end means ended, and a free one without an end means lost.

Used by the supervisor, so standard library only, and little of it.
"""

# Importing pathlib would cost more than all the rest.
# ruff: noqa: PTH102, PTH103, PTH106, PTH108

from __future__ import annotations

import fcntl
import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "record"
LOCK_FD = 197
"""The descriptor that holds the lock in a job's processes: out of the way of shells (10 up, 255)."""

_MAX_BYTES = 1 << 20
_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, Any]] = {
    "claim": {"host": str, "supervisor": int, "since": (int, type(None)), "socket": str},
    "start": {"pid": int, "time": _NUMBER},
    "end": {
        **dict.fromkeys(("exit", "signal", "pid"), (int, type(None))),
        **dict.fromkeys(("cpu_s", "peak_memory_mib", "started"), (*_NUMBER, type(None))),
        "reason": (str, type(None)),
        "message": str,
        "host": str,
        "finished": _NUMBER,
    },
    "void": {"issuer": str, "turn": int},
}

encode = json.JSONEncoder(separators=(",", ":")).encode
"""The JSON text of a value, on one line."""


class Record:
    """What a record file says; `held` tells whether anybody holds its lock."""

    __slots__ = ("claim", "end", "held", "start", "void")

    def __init__(self, data: bytes, *, held: bool) -> None:
        self.held = held
        self.claim: dict[str, Any] | None = None
        self.start: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.void: dict[str, Any] | None = None
        for line in data.splitlines():
            try:
                ((kind, value),) = json.loads(line).items()
                fitting = all(isinstance(value[name], type_) for name, type_ in _FIELDS[kind].items())
            except (ValueError, AttributeError, KeyError, TypeError):
                continue  # torn by a crash of the machine, or not ours
            if fitting:
                setattr(self, kind, value)


def line(kind: str, value: dict[str, Any]) -> bytes:
    """One line of a record file."""
    return b'{"%s":%s}\n' % (kind.encode(), encode(value).encode())


def read(directory: str) -> Record | None:
    """The record of an attempt, or None when it has none. Raises OSError when that cannot be seen."""
    try:
        descriptor = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        # The lock is tried first: what was written before it became free is then seen.
        held = not _lock(descriptor, fcntl.LOCK_SH)
        return Record(os.read(descriptor, _MAX_BYTES), held=held)
    finally:
        os.close(descriptor)


def held(directory: str) -> bool:
    """Whether a process of the attempt, or its supervisor, is alive."""
    try:
        descriptor = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def claim(directory: str, claim_line: bytes, issuer: str, turn: int) -> int | None:
    """Take an attempt: a descriptor that holds its lock, or None when it was taken or closed before.

    A void counts unless the same driver (`issuer`) submitted again afterwards (in a later `turn`).
    Raises OSError when no record can be made; then nothing is left of it.
    """
    made = True
    try:
        os.mkdir(directory)
    except FileExistsError:
        made = False
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
    descriptor = None
    try:
        descriptor = _open(directory)
        if _lock(descriptor, fcntl.LOCK_EX) and _free(descriptor, issuer, turn):
            # This line also makes sure of the file's first block, so that the end fits on a full disk.
            os.write(descriptor, claim_line)
            return descriptor
    except OSError:
        if made:
            withdraw(directory)
        if descriptor is not None:
            os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _free(descriptor: int, issuer: str, turn: int) -> bool:
    if not os.fstat(descriptor).st_size:
        return True
    record = Record(os.read(descriptor, _MAX_BYTES), held=True)
    void = record.void
    return record.claim is None and (not void or (void["issuer"] == issuer and void["turn"] < turn))


def withdraw(directory: str) -> None:
    """Undo a claim under which nothing was started."""
    try:
        for name in (NAME, "stdout", "stderr"):
            if os.path.lexists(f"{directory}/{name}"):
                os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:
        pass  # the claim stays, and the attempt is found to be lost: as safe, only less clear


def void(directory: str, issuer: str, turn: int) -> bool:
    """Close an attempt that nobody claimed, so that a submission under way cannot start it any more.

    True when it is closed; False when somebody claimed it. Raises OSError when neither is known.
    """
    os.makedirs(directory, exist_ok=True)
    descriptor = _open(directory)
    try:
        if not _lock(descriptor, fcntl.LOCK_EX) or Record(os.read(descriptor, _MAX_BYTES), held=True).claim:
            return False
        os.write(descriptor, line("void", {"issuer": issuer, "turn": turn}))
        return True
    finally:
        os.close(descriptor)


def _open(directory: str) -> int:
    return os.open(f"{directory}/{NAME}", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
