"""Starts the process of a job: posix_spawn, in a process group of its own.

Used by the supervisor, so standard library only, and little of it.
"""

# Importing pathlib would cost more than all the rest.
# ruff: noqa: PTH110, PTH113

from __future__ import annotations

import errno
import os
import resource
import signal

from drawbar_local.records import LOCK_FD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NOT_FOUND = 127
NOT_STARTED = 126
"""Exit codes of commands that are not there, and of those that cannot be started: as shells have it."""

_SPARE_FILES = 100
_BUSY = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


class CannotStart(Exception):
    """The command cannot be started: what that means to the job."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Busy(Exception):
    """The machine has no room for another process or file at the moment."""


class Launcher:
    """Starts processes. Changes the working directory of this process; single-threaded only."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._commands: dict[tuple[str, str], str] = {}
        self._ignored = [each for each in signal.valid_signals() if signal.getsignal(each) is signal.SIG_IGN]
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._raised: tuple[int, int] | None = None
        self._low = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]

    def make_room(self, files: int) -> None:
        """Let this process, though not its jobs, have as many files open as it may, when it comes to that."""
        soft, hard = self._limits
        if files + _SPARE_FILES > soft != hard and not self._raised:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                self._raised = (hard, hard)
            except (OSError, ValueError):
                self._limits = (soft, soft)  # macOS calls its hard limit infinite, and allows less

    def start(
        self,
        argv: list[str],
        *,
        directory: str,
        environment: Mapping[str, str],
        stdin: str | None,
        stdout: str,
        stderr: str,
        lock: int,
    ) -> int:
        """The process id of the new process, which leads a group and holds the descriptor `lock`.

        Raises `CannotStart` for what is wrong with the command, its directory or its files, and
        `Busy` for what is wrong with the machine; then no process exists.
        """
        variables = {**self._environment, **environment}
        try:
            os.chdir(directory)
        except (OSError, ValueError) as error:
            raise CannotStart(NOT_STARTED, f"working directory {directory!r}: {_why(error)}") from error
        files: list[int] = []
        actions: list[tuple[int, int, int]] = []
        try:
            if stdin is not None:
                files.append(_open("stdin", stdin, os.O_RDONLY))
                actions.append((os.POSIX_SPAWN_DUP2, files[-1], 0))
            files.append(_open("stdout", stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            actions.append((os.POSIX_SPAWN_DUP2, files[-1], 1))
            if stderr != stdout:
                files.append(_open("stderr", stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            actions.append((os.POSIX_SPAWN_DUP2, files[-1], 2))
            actions.append((os.POSIX_SPAWN_DUP2, lock, LOCK_FD))
            return self._spawn(argv, variables, actions)
        finally:
            for descriptor in files:
                os.close(descriptor)

    def _spawn(
        self, argv: list[str], environment: Mapping[str, str], actions: list[tuple[int, int, int]]
    ) -> int:
        search = environment.get("PATH", os.defpath)
        cached = (argv[0], search) in self._commands
        path = self._resolve(argv[0], search)
        try:
            if self._raised:  # the job gets the limit that the user has
                actions = self._lowered(actions)
                resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
            return os.posix_spawn(
                path,
                argv,
                environment,
                file_actions=actions,
                setpgroup=0,
                setsigmask=(),
                setsigdef=self._ignored,
            )
        except OSError as error:
            if error.errno in _BUSY:
                raise Busy(_why(error)) from error
            if cached and error.errno in (errno.ENOENT, errno.EACCES):
                del self._commands[argv[0], search]  # moved since; look again
                return self._spawn(argv, environment, actions)
            if error.errno == errno.ENOENT and os.path.exists(path):
                raise CannotStart(NOT_STARTED, f"{argv[0]!r}: its interpreter does not exist") from error
            code = NOT_FOUND if error.errno == errno.ENOENT else NOT_STARTED
            raise CannotStart(code, f"{argv[0]!r}: {_why(error)}") from error
        except ValueError as error:
            raise CannotStart(NOT_STARTED, f"{argv[0]!r}: {error}") from error
        finally:
            if self._raised:
                resource.setrlimit(resource.RLIMIT_NOFILE, self._raised)
                for low in self._low:  # let go of the lock
                    os.dup2(0, low, inheritable=False)

    def _lowered(self, actions: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
        """The same with descriptors below the job's limit, as posix_spawn wants them."""
        for low, (_, source, _) in zip(self._low, actions, strict=False):
            os.dup2(source, low, inheritable=False)
        return [(kind, low, target) for low, (kind, _, target) in zip(self._low, actions, strict=False)]

    def _resolve(self, command: str, search: str) -> str:
        """What execvp would run: the first executable file of that name in the job's own PATH."""
        if "/" in command:
            return command
        if (command, search) in self._commands:
            return self._commands[command, search]
        denied = False
        for place in search.split(os.pathsep):
            path = f"{place or '.'}/{command}"
            if os.path.isfile(path):
                if os.access(path, os.X_OK):
                    if place.startswith("/"):
                        self._commands[command, search] = path
                    return path
                denied = True
        if denied:
            raise CannotStart(NOT_STARTED, f"{command!r}: not executable")
        raise CannotStart(NOT_FOUND, f"{command!r}: command not found in PATH {search!r}")


def _open(what: str, path: str, flags: int) -> int:
    try:
        # A named pipe must not keep the supervisor waiting for its other end.
        descriptor = os.open(path, flags | os.O_NOCTTY | os.O_NONBLOCK, 0o666)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _BUSY:
            raise Busy(_why(error)) from error
        raise CannotStart(NOT_STARTED, f"{what} {path!r}: {_why(error)}") from error
    os.set_blocking(descriptor, True)
    return descriptor


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
