"""Engine processes as the driver sees them: started, spoken to, watched and ended.

Nothing here blocks: what an engine process says is read when there is something, what it is told is
sent when it takes it. An engine process gets a scrubbed environment (`environment`), a session of its
own, and limits; what it prints goes to a file, up to a bound.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from drawbar.analysis import Analysis
from drawbar.codec import CodecError, decode, encode
from drawbar.engine import Source, WorkflowInfo
from drawbar.errors import (
    DrawbarError,
    EngineDied,
    InfrastructureError,
    Problem,
    RunFailed,
    SpecError,
    Unsupported,
)
from drawbar.home import RunDirectory
from drawbar.lease import Lease, start_of
from drawbar.settings import EngineLimits, Settings
from drawbar.wire import Buffer, Message, pack

_PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "SHELL", "VIRTUAL_ENV"}
    | {"XDG_CACHE_HOME", "DRAWBAR_PLUGINS", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH"}
)
_HASH_SEED = "0"
"""One order of sets and dicts for every start of an engine, so that a replay gives the same keys."""
_LAST_BYTES = 2000
_OLD_ENGINE_S = 30.0
_DUMP_S = 5.0
"""How long a stuck engine may take to say where it is."""


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """What of this process's environment an engine process gets: by name, so that no secret does."""
    passed = {name: value for name, value in own.items() if name in _PASSED_ON or name.startswith("LC_")}
    return {**passed, "PYTHONHASHSEED": _HASH_SEED, "PYTHONUNBUFFERED": "1"}


class EngineProcess:
    """One engine process, from its start to its end. For one thread.

    `said` is the monotonic time when it last said or printed anything, or was told something.
    """

    def __init__(self, pid: int, connection: socket.socket, output: int, limits: EngineLimits) -> None:
        self.pid = pid
        self.connection = connection
        self.output: int | None = output
        self.said = time.monotonic()
        self.printed = b""
        self._limits = limits
        self._buffer = Buffer()
        self._outgoing = bytearray()
        self._log: Path | None = None
        self._written = 0
        self._child: subprocess.Popen[bytes] | None = None
        connection.setblocking(False)
        os.set_blocking(output, False)

    @classmethod
    def start(cls, engine: str, settings: Settings) -> EngineProcess:
        """A new process for an engine, with the interpreter that the settings give it."""
        configured = settings.engines.get(engine)
        interpreter = configured.interpreter if configured else None
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            child = subprocess.Popen(
                # -P: what lies in the current directory must not be taken for a module
                [str(interpreter or sys.executable), "-P", "-m", "drawbar.enginemain", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=environment(os.environ),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(reading)
            raise InfrastructureError(
                f"cannot start the engine {engine!r} with {interpreter or sys.executable}: {error}"
            ) from error
        finally:
            theirs.close()
            os.close(writing)
        process = cls(child.pid, ours, reading, settings.engine)
        process._child = child
        return process

    def log_to(self, path: Path) -> None:
        """Append what the process prints to a file, from now on."""
        self._log = path

    def send(self, messages: Sequence[Message]) -> None:
        """Say something; what the process does not take at once is sent by `flush`."""
        self.said = time.monotonic()
        self._outgoing += pack(messages)
        self.flush()

    def flush(self) -> None:
        """Send what the process will take."""
        while self._outgoing:
            try:
                sent = self.connection.send(memoryview(self._outgoing)[: 1 << 18])
            except BlockingIOError:
                return
            except OSError:
                self._outgoing.clear()
                return
            del self._outgoing[:sent]

    @property
    def wants_to_send(self) -> bool:
        """Whether `flush` has something left to do."""
        return bool(self._outgoing)

    def read(self) -> list[Message] | None:
        """What the process said; None when it has ended."""
        messages: list[Message] = []
        while True:
            try:
                data = self.connection.recv(1 << 18)
            except BlockingIOError:
                return messages
            except OSError:
                data = b""
            if not data:
                return messages or None
            self.said = time.monotonic()
            messages += self._buffer.feed(data)

    def read_output(self) -> None:
        """Take what the process printed. `EngineDied` when that is more than the settings allow."""
        while self.output is not None:
            try:
                data = os.read(self.output, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                os.close(self.output)
                self.output = None
                return
            self.said = time.monotonic()
            self.printed = (self.printed + data)[-_LAST_BYTES:]
            self._written += len(data)
            if self._log is not None:
                # on a full disk the run pauses, and what the engine prints meanwhile is lost
                with contextlib.suppress(OSError), self._log.open("ab") as log:
                    log.write(data)
            if self._written > self._limits.output_mib << 20:
                raise EngineDied(
                    f"the engine printed more than {self._limits.output_mib} MiB (engine.output_mib); "
                    f"the beginning is in {self._log}"
                )

    def check_silence(self) -> None:
        """For a process that has something to do: `EngineDied` when it did nothing visible for too long."""
        if time.monotonic() - self.said > self._limits.silence_s:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGABRT)  # faulthandler prints where it is
            end = time.monotonic() + _DUMP_S
            with contextlib.suppress(EngineDied):
                while self.output is not None and time.monotonic() < end:
                    select.select([self.output], [], [], 0.1)
                    self.read_output()
            raise EngineDied(
                f"the engine did nothing visible for {self._limits.silence_s:.0f} s (engine.silence_s) with "
                f"no job in flight; where it was is in {self._log}"
            )

    def how_it_ended(self) -> str:
        """A sentence on an end that nobody asked for."""
        with contextlib.suppress(EngineDied):
            self.read_output()
        code = None
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._child.wait(5.0)
        how = "ended unexpectedly"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        elif code is not None:
            how = f"ended with exit status {code}"
        words = self.printed.decode(errors="replace").strip()
        return f"the engine process {how}" + (f"; its last words:\n{words}" if words else "")

    def close(self) -> None:
        """End the process, and all of its group, and wait until it is gone."""
        self.connection.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        if self.output is not None:
            os.close(self.output)
            self.output = None


StartEngine = Callable[[str, Settings], EngineProcess]
"""Gives a new engine process for an engine."""


class WarmParent:
    """A process that has loaded one engine's library and forks engine processes, for many runs.

    Drivers on several threads may share it.
    """

    def __init__(self, engine: str, settings: Settings) -> None:
        configured = settings.engines.get(engine)
        interpreter = configured.interpreter if configured else None
        self.engine = engine
        self._asking = Lock()
        self._control, theirs = socket.socketpair()
        self._child = subprocess.Popen(
            [
                *(str(interpreter or sys.executable), "-P", "-m", "drawbar.enginemain"),
                *("--warm", engine, str(theirs.fileno())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=environment(os.environ),
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self._control.settimeout(settings.engine.silence_s)
        try:
            self._answer(1)
        except OSError as error:
            self.close()
            raise EngineDied(f"the warm parent of the engine {engine!r} does not answer: {error}") from error
        except EngineDied:
            self.close()
            raise

    def start(self, engine: str, settings: Settings) -> EngineProcess:
        """A new engine process, as `EngineProcess.start` gives it: forked if it is for this engine.

        `EngineDied` when the parent is gone.
        """
        if engine != self.engine:
            return EngineProcess.start(engine, settings)
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe()
        try:
            with self._asking:
                socket.send_fds(self._control, [b"f"], [theirs.fileno(), writing])
                pid = int.from_bytes(self._answer(4), "big")
        except (OSError, EngineDied) as error:
            ours.close()
            os.close(reading)
            raise EngineDied(f"the warm parent of the engine {self.engine!r} is gone: {error}") from error
        finally:
            theirs.close()
            os.close(writing)
        return EngineProcess(pid, ours, reading, settings.engine)

    def close(self) -> None:
        """End the parent; engine processes that it forked end with it."""
        self._control.close()
        self._child.terminate()
        self._child.wait()

    def _answer(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._control.recv(size - len(data))
            if not more:
                raise EngineDied(f"the warm parent of the engine {self.engine!r} ended")
            data += more
        return data


def source_order(source: Source) -> dict[str, Any]:
    """A `Source` as it goes over the wire."""
    order = {name: getattr(source, name) for name in source.__dataclass_fields__}
    return {name: str(value) if isinstance(value, Path) else encode(value) for name, value in order.items()}


def failure(order: Mapping[str, Any]) -> DrawbarError:
    """The error that an engine process told of."""
    kind = order["kind"]
    if kind == "StepFailed":
        return RunFailed(order["message"])
    if "problems" in order:
        problems = [decode(Problem, each) for each in order["problems"]]
        return Unsupported(problems) if kind == "Unsupported" else SpecError(problems)
    if kind == "crash":
        return EngineDied(f"the engine failed: {order['message']}")
    error = InfrastructureError if order["exit_status"] == InfrastructureError.exit_status else DrawbarError
    return error(order["message"])


def inspect(
    analysis: Analysis, *, settings: Settings, until: str | None = None, allow_execution: bool = True
) -> WorkflowInfo:
    """What an engine finds in an analysis, asked in an engine process of its own.

    Raises `SpecError` with every problem, and `EngineDied` when the process ends, prints too much or
    stays silent for too long.
    """
    source = analysis.source(until=until, allow_execution=allow_execution)
    process = EngineProcess.start(analysis.engine, settings)
    order = {
        "engine": analysis.engine,
        "memory_mib": settings.engine.memory_mib,
        "source": source_order(source),
    }
    try:
        process.send([["inspect", order]])
        while True:
            connection = process.connection.fileno()
            reading = [connection] if process.output is None else [connection, process.output]
            select.select(reading, [connection] if process.wants_to_send else [], [], 1.0)
            process.flush()
            process.read_output()
            messages = process.read()
            if messages is None:
                raise EngineDied(process.how_it_ended())
            for kind, *rest in messages:
                if kind == "inspected":
                    return decode(WorkflowInfo, rest[0])
                if kind == "failed":
                    raise failure(rest[0])
            process.check_silence()
    finally:
        process.close()


def end_old_engine(directory: RunDirectory) -> None:
    """Wait until no engine process of an earlier drive can write in the workspace any more.

    One on this host is ended; `InfrastructureError` when it does not go, or is on another host.
    """
    with (directory.engine / "lock").open("a+") as lock:
        deadline = time.monotonic() + _OLD_ENGINE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            lock.seek(0)
            with contextlib.suppress(ValueError, CodecError, ProcessLookupError, PermissionError):
                old = decode(Lease, json.load(lock))
                if old.local and start_of(old.pid) == old.started:
                    os.killpg(old.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"an earlier engine process of {directory.id} is still alive; end it and resume"
                )
            time.sleep(0.05)
