"""Learns which child processes have ended: two ways with one interface.

    watcher.fileno()      readable when a child may have ended
    watcher.add(pid)      watch a child just started
    watcher.ended()       the children that ended, as (pid, wait status, resource usage), reaped

Used by the supervisor, so standard library only, and little of it.
"""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from resource import struct_rusage

    Ended = tuple[int, int, struct_rusage]


class PidfdWatcher:
    """A descriptor of the kernel per process (Linux 5.3)."""

    def __init__(self) -> None:
        os.close(os.pidfd_open(os.getpid()))  # OSError where the kernel has no such thing
        self._epoll = select.epoll()
        self._pids: dict[int, int] = {}

    def fileno(self) -> int:
        """Readable when a child may have ended."""
        return self._epoll.fileno()

    def add(self, pid: int) -> None:
        """Watch a child."""
        descriptor = os.pidfd_open(pid)
        self._pids[descriptor] = pid
        self._epoll.register(descriptor, select.EPOLLIN)

    def ended(self) -> Iterator[Ended]:
        """The children that ended."""
        for descriptor, _ in self._epoll.poll(0):
            self._epoll.unregister(descriptor)  # a child about to exec may have a copy of it
            os.close(descriptor)
            yield os.wait4(self._pids.pop(descriptor), 0)


class SignalWatcher:
    """SIGCHLD, and a wait for whichever child has ended: everywhere else."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def fileno(self) -> int:
        """Readable when a child may have ended."""
        return self._read

    def add(self, pid: int) -> None:
        """Watch a child; the signal comes for all of them."""

    def ended(self) -> Iterator[Ended]:
        """The children that ended."""
        try:
            os.read(self._read, 65536)
        except BlockingIOError:
            return
        while True:
            try:
                ended = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if ended[0] == 0:
                return
            yield ended


def watcher(kind: str) -> PidfdWatcher | SignalWatcher:
    """The watcher `pidfd` or `signal`; for `auto` the first that works here."""
    if kind == "signal":
        return SignalWatcher()
    try:
        return PidfdWatcher()
    except (AttributeError, OSError):
        if kind == "pidfd":
            raise
        return SignalWatcher()
