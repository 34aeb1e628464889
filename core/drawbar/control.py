"""What one process does about a run that another one drives: start a driver, wait, cancel.

A driver is `python -m drawbar.cli drive RUN`, in a session of its own, so that neither a closed
terminal nor the end of the process that started it touches it. It tells over a pipe how its start went.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drawbar import errors
from drawbar.codec import decode, encode
from drawbar.creation import ended
from drawbar.errors import DrawbarError, InfrastructureError, Problem, SpecError
from drawbar.home import RunDirectory
from drawbar.lease import Lease

LOOK_S = 0.5


def driver_log(directory: RunDirectory) -> Path:
    """What a detached driver writes on standard output and error."""
    return directory.path / "driver.log"


def start_driver(
    directory: RunDirectory, arguments: Sequence[str] = (), *, assignments: Sequence[str] = ()
) -> None:
    """Start a process that drives a run; returns when it does. `assignments` are settings, NAME=VALUE.

    Raises what kept it from that: the errors of `Driver.drive`, and `InfrastructureError` when the
    process ended without a word.
    """
    reader, writer = os.pipe()
    try:
        settings = [argument for each in assignments for argument in ("--set", each)]
        command = [*settings, "drive", directory.id, "--ready", str(writer), *arguments]
        with driver_log(directory).open("ab") as log:
            process = subprocess.Popen(
                # -P: what lies in the current directory must not be taken for a module
                [sys.executable, "-P", "-m", "drawbar.cli", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[writer],
                start_new_session=True,
                env={**os.environ, "DRAWBAR_HOME": str(directory.path.parent.parent)},
            )
    except OSError as error:
        os.close(reader)
        raise InfrastructureError(f"cannot start a driver for {directory.id}: {error}") from error
    finally:
        os.close(writer)
    # Its end is somebody else's business, but a process that nobody waits for stays as a zombie.
    threading.Thread(target=process.wait, name=f"driver of {directory.id}", daemon=True).start()
    with open(reader, "rb") as pipe:  # noqa: PTH123 (a file descriptor)
        answer = pipe.readline()
    if not answer:
        raise InfrastructureError(
            f"the driver of {directory.id} ended at its start:\n{_tail(driver_log(directory))}"
        )
    told = json.loads(answer)
    if told.get("error"):
        raise _error(told)


class Starter:
    """Who started this driver and reads from a pipe whether it drives; only the first word counts."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def tell(self, error: BaseException | None = None) -> None:
        """The run is driven, or `error` has kept it from that."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        told: dict[str, Any] = {}
        if error is not None:
            told = {"error": type(error).__name__, "message": str(error) or type(error).__name__}
            if isinstance(error, SpecError):
                told["problems"] = [encode(problem) for problem in error.problems]
        with contextlib.suppress(OSError), open(descriptor, "w") as pipe:  # noqa: PTH123 (a file descriptor)
            pipe.write(json.dumps(told) + "\n")


def wait(
    directory: RunDirectory, timeout: float | None = None, *, look: Callable[[], None] = lambda: None
) -> bool:
    """Wait until the run has ended, or its driver is gone; False when `timeout` seconds went by before.

    What the driver's process does after the end, such as copying outputs, is done then too. `look`
    is called at every look at the run.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    lease = directory.lease()
    while True:
        look()
        if ended(directory) or not held(lease):
            lease = directory.lease()
            if not held(lease) and not _finishing(directory):
                return True
        left = LOOK_S if deadline is None else min(LOOK_S, deadline - time.monotonic())
        if left <= 0:
            return False
        time.sleep(left)


@contextmanager
def finishing(directory: RunDirectory) -> Iterator[None]:
    """Have those who wait for the run wait until this is over, too."""
    with _finish_file(directory).open("a") as file:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _finishing(directory: RunDirectory) -> bool:
    try:
        with _finish_file(directory).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _finish_file(directory: RunDirectory) -> Path:
    return directory.path / "finishing"


def held(lease: Lease | None) -> bool:
    """Whether a driver has the run, or may have it on another host."""
    return lease is not None and lease.pid != 0 and lease.alive is not False


def request_cancel(directory: RunDirectory) -> Lease | None:
    """Ask the driver of a run to cancel it, which it sees within seconds; None when there is no driver."""
    lease = directory.lease()
    if not held(lease):
        return None
    try:
        directory.cancel_request.touch()
    except OSError as error:
        raise InfrastructureError(f"cannot ask for {directory.id} to be cancelled: {error}") from error
    return lease


def _error(told: Mapping[str, Any]) -> DrawbarError:
    """The error that a driver told about, as the class that it was where that is one of drawbar's."""
    cls = getattr(errors, told["error"], InfrastructureError)
    if "problems" in told and isinstance(cls, type) and issubclass(cls, SpecError):
        return cls([decode(Problem, each) for each in told["problems"]])
    if not (isinstance(cls, type) and issubclass(cls, DrawbarError)) or issubclass(cls, SpecError):
        cls = InfrastructureError
    return cls(told["message"])


def _tail(path: Path, size: int = 4000) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""
