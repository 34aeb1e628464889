"""The driver's side of a supervisor: how one is started or found, and the connection to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawbar.errors import BackendError

from drawbar_local import records
from drawbar_local.processes import same_user

TALK_S = 20.0
"""How long a supervisor may take to read what it is sent."""

_NEW_S = 60.0

# `-I -S` leaves no way to find this package; this makes a bare one, without what __init__ imports.
_BOOT = """
import sys
package = type(sys)("drawbar_local")
package.__path__ = [sys.argv.pop()]
sys.modules["drawbar_local"] = package
from drawbar_local.supervisor import main
main()
"""

_left_behind: list[int] = []
"""Supervisors that outlived the object that started them; children of this process all the same."""


class Link:
    """A connection to a supervisor. `child` is its process id when this process started it."""

    def __init__(self, connection: socket.socket, path: str, child: int | None = None) -> None:
        connection.settimeout(TALK_S)
        self.connection = connection
        self.path = path
        self.child = child
        self.last_words = ""
        self.closed = False
        self._sending = threading.Lock()
        self._received = bytearray()

    def send(self, *message: object) -> None:
        """Send a message. Raises OSError when it did not get there, or not as a whole."""
        data = records.encode(message).encode() + b"\n"
        with self._sending:
            try:
                self.connection.sendall(data)
            except OSError:
                self.shut()  # half a message may be on its way: nothing more can be said
                raise

    def shut(self) -> None:
        """End the connection; its reader sees the end."""
        with contextlib.suppress(OSError):  # it is shut already
            self.connection.shutdown(socket.SHUT_RDWR)

    def receive(self) -> list[Any] | None:
        """The messages that came in. None at the end of the connection."""
        try:
            data = self.connection.recv(1 << 16)
        except OSError:
            return None
        if not data:
            return None
        self._received += data
        if b"\n" not in data:
            return []
        *lines, self._received = self._received.split(b"\n")
        messages = []
        for line in lines:
            try:
                messages.append(json.loads(line))
            except ValueError:  # what Python prints when it ends with an error
                self.last_words += line.decode(errors="replace") + "\n"
        return messages

    def close(self, *, wait_s: float) -> None:
        """Release everything. A supervisor of our own gets `wait_s` to end, then is left behind."""
        self.closed = True
        self.connection.close()
        if self.child is not None:
            if _reaped(self.child, wait_s):
                Path(self.path).unlink(missing_ok=True)  # it may have been killed
            else:
                _left_behind.append(self.child)


def start(directory: Path, options: Mapping[str, Any]) -> Link:
    """A new supervisor with a session of its own, and the connection to it."""
    reap()
    _sweep(directory)
    path = str(directory / uuid.uuid4().hex[:12])
    arguments = json.dumps({**options, "socket": path})
    ours, its = socket.socketpair()
    try:
        child = os.posix_spawn(
            sys.executable,
            [
                *(sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _BOOT),
                *(arguments, str(Path(__file__).parent)),
            ],
            options["environment"],
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, its.fileno(), 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )
    except OSError as error:
        ours.close()
        raise BackendError(
            f"the supervisor of local jobs cannot be started: {error}", transient=True
        ) from error
    finally:
        its.close()
    return Link(ours, path, child)


def connect(path: str) -> Link | None:
    """The connection to a supervisor that somebody else started, or None when it does not answer."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(TALK_S)
        connection.connect(path)
        if same_user(connection):
            return Link(connection, path)
    except OSError:
        pass
    connection.close()
    return None


def runtime_directory(wish: str | None, *, create: bool) -> Path:
    """The directory of the supervisors' sockets, for this user alone.

    Not in a place that goes away when the user logs out (as XDG_RUNTIME_DIR does): jobs stay.
    Raises `BackendError` when it is not safe to use.
    """
    path = Path(wish or f"/tmp/drawbar-{os.getuid()}")  # noqa: S108 - owner and mode are checked
    remedy = "remove it, or set another `runtime_directory` for the local backend"
    try:
        if create:
            path.mkdir(mode=0o700, exist_ok=True)
        elif not path.exists() and os.access(path.parent, os.W_OK):
            return path
        status = path.lstat()
    except OSError as error:
        raise BackendError(f"{path}: {error.strerror}; {remedy}") from error
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise BackendError(f"{path} is not a directory of this user alone (mode 700); {remedy}")
    if len(str(path)) > 80:
        raise BackendError(f"{path} is too long for the name of a socket; {remedy}")
    return path


def _sweep(directory: Path) -> None:
    """Remove the sockets of supervisors that were killed; not new ones, which may not listen yet."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX) as visitor:
            if path.is_socket() and time.time() - path.stat().st_mtime > _NEW_S:
                visitor.settimeout(0)
                try:
                    visitor.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                except OSError:
                    pass  # it is busy, so alive


def reap() -> None:
    """Take note of supervisors left behind that have ended since."""
    _left_behind[:] = [pid for pid in _left_behind if not _reaped(pid, 0)]


def _reaped(pid: int, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)
