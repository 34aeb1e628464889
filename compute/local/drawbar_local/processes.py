"""Processes of jobs, found by what they inherited rather than by their ids.

A process belongs to a job when its environment has the job's tag, or when it has the job's record
file open at `LOCK_FD`. Both survive setsid, double forks and the death of parents. Where there is no
/proc, only process groups are found.

Used by the supervisor, so standard library only, and little of it.
"""

# Importing pathlib and contextlib would cost more than all the rest.
# ruff: noqa: PTH110, PTH116, PTH123, PTH208, SIM105

from __future__ import annotations

import os
import signal
import socket
import struct

from drawbar_local.records import LOCK_FD, NAME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TAG = "DRAWBAR_JOB_TAG"
"""The variable with the tag of a job; jobs inside jobs have a list, outermost first."""
TAG_SEPARATOR = ":"

HAVE_PROC = os.path.exists("/proc/self/environ")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def since(pid: int) -> int | None:
    """When a process was started, in a unit of the kernel's: with its id it names a process for good."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def alive(pid: int, started: int | None) -> bool:
    """Whether the process `pid` that was started at `started` still runs."""
    if started is not None:
        fields = _stat(pid)
        return fields is not None and fields[0] not in b"ZX" and int(fields[19]) == started
    try:
        return os.getsid(pid) == pid  # supervisors lead a session
    except ProcessLookupError:
        return False


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; False when it has no member any more."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # a member that became somebody else, or, on macOS, a zombie
    return True


def kill_group(group: int, session: int) -> None:
    """Kill the process group of a job whose supervisor, `session`, is dead."""
    try:
        if os.getsid(group) != session:
            return  # the id is in use again
    except ProcessLookupError:
        pass  # the leader is gone; others may be left
    signal_group(group, signal.SIGKILL)


def kill(attempts: Mapping[str, str]) -> set[str]:
    """Kill all processes of attempts (tag to record directory), in one look at the process table.

    The tags of those that still had a process; killed ones need a moment to be gone.
    """
    files = {}
    for tag, directory in attempts.items():
        try:
            status = os.stat(f"{directory}/{NAME}")
        except OSError:
            continue
        files[status.st_dev, status.st_ino] = tag
    found = set()
    own = os.getpid()
    for pid in _pids():
        if pid == own:
            continue
        tags = (_tags(pid) & attempts.keys()) or _locker(pid, files)
        if tags:
            found |= tags
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # gone, or somebody else's; the lock tells
    return found


def group_memory(groups: Mapping[int, int]) -> dict[int, int]:
    """The memory in bytes of those process groups that use more than their limit in bytes.

    Pages that several processes share count once: the resident sizes are only a quick first look.
    """
    members: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for pid in _pids():
        fields = _stat(pid)
        if fields and (group := int(fields[2])) in groups:
            members.setdefault(group, []).append(pid)
            resident[group] = resident.get(group, 0) + int(fields[21]) * _PAGE
    above = {}
    for group, size in resident.items():
        if size > groups[group]:
            size = sum(_proportional(pid) for pid in members[group])
            if size > groups[group]:
                above[group] = size
    return above


def same_user(connection: socket.socket) -> bool:
    """Whether the other side of a Unix socket is this user; on macOS its directory's mode has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    user: int = struct.unpack("3i", credentials)[1]
    return user == os.getuid()


def _pids() -> Iterator[int]:
    if HAVE_PROC:
        for name in os.listdir("/proc"):
            if name.isdigit():
                yield int(name)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""  # gone meanwhile, or somebody else's


def _stat(pid: int) -> list[bytes] | None:
    """The fields of a process from its state on; the name before it may hold anything."""
    data = _read(f"/proc/{pid}/stat")
    return data[data.rindex(b")") + 2 :].split() if data else None


def _tags(pid: int) -> set[str]:
    environment = b"\0" + _read(f"/proc/{pid}/environ")
    _, found, rest = environment.partition(f"\0{TAG}=".encode())
    return set(os.fsdecode(rest.partition(b"\0")[0]).split(TAG_SEPARATOR)) if found else set()


def _locker(pid: int, files: Mapping[tuple[int, int], str]) -> set[str]:
    try:
        status = os.stat(f"/proc/{pid}/fd/{LOCK_FD}")
    except OSError:
        return set()
    tag = files.get((status.st_dev, status.st_ino))
    return {tag} if tag else set()


def _proportional(pid: int) -> int:
    for row in _read(f"/proc/{pid}/smaps_rollup").splitlines():
        if row.startswith(b"Pss:"):
            return int(row.split()[1]) * 1024
    fields = _stat(pid)
    return int(fields[21]) * _PAGE if fields else 0
