"""The engine process: `python -m drawbar.enginemain FD`, started by `drawbar.enginehost`.

It says hello, then does what it is told over the socket FD: `inspect`, then perhaps `execute`. It
ends when that is done, and at once when the driver's end of the socket closes; then it takes every
process that the engine library started with it.

With `--warm ENGINE`, it is a parent instead: it loads that engine's library once, and forks an engine
process for every socket that it is sent. It has one thread, so forking is safe.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from drawbar.channel import Channel
from drawbar.codec import encode
from drawbar.engine import Engine, Source, StepFailed
from drawbar.errors import DrawbarError, InfrastructureError, SpecError
from drawbar.home import RunDirectory
from drawbar.jobclient import Client, Restart
from drawbar.lease import Lease
from drawbar.plugins import load_plugins

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Be an engine process, or the parent of some."""
    faulthandler.enable()
    gc.disable()  # until the execution: there is no garbage in what is imported and loaded
    _die_with_parent()
    if arguments[0] == "--warm":
        _be_parent(arguments[1], socket.socket(fileno=int(arguments[2])))
    else:
        _be_engine(socket.socket(fileno=int(arguments[0])))


def _be_engine(connection: socket.socket) -> None:
    channel = Channel(connection, _end_all)
    engine: Engine | None = None
    while True:
        kind, order = channel.next()
        try:
            if engine is None:
                _limit(order.get("memory_mib"))
                plugins = load_plugins(kinds=("engine",))
                engine = plugins.engine(order["engine"])()
                origin = plugins.origin("engine", engine.name)
                channel.send("hello", {"engine": engine.name, "version": origin.version or ""})
            if kind == "inspect":
                info = engine.inspect(_source(order["source"]))
                channel.send("inspected", encode(info), now=True)
            elif kind == "execute":
                outputs = _execute(engine, order, channel)
                channel.send("finished", encode(outputs), now=True)
            else:
                return
        except BaseException as error:
            channel.send("failed", _failure(error), now=True)


def _execute(engine: Engine, order: Mapping[str, Any], channel: Channel) -> Any:
    gc.freeze()
    gc.enable()
    directory = RunDirectory(Path(order["directory"]))
    source = _source(order["source"])
    origins = order["origins"]
    with _owning(directory), directory.engine_log.open("a") as log:
        while True:
            client = Client(
                channel,
                directory,
                Path(order["workspace"]),
                origins=None if origins is None else {name: Path(path) for name, path in origins.items()},
                consumed=order["consumed"],
                quiet_since=order["quiet_since"],
                log=log,
            )
            try:
                outputs = engine.execute(source, client)
                client.finish()
            except Restart:
                continue
            finally:
                client.close()
            return outputs


@contextlib.contextmanager
def _owning(directory: RunDirectory) -> Any:
    """Hold the lock that says an engine is at work in the run's workspace, while it is."""
    with (directory.engine / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        json.dump(encode(Lease.own()), lock)
        lock.flush()
        yield


def _source(order: Mapping[str, Any]) -> Source:
    paths = {
        name: Path(order[name]) if order.get(name) is not None else None
        for name in ("root", "document", "file", "definition")
    }
    values = {**order, **paths}
    values["declared"] = tuple(values.get("declared", ()))
    return Source(**values)


def _failure(error: BaseException) -> dict[str, Any]:
    """What went wrong, for the driver; the engine's own mistakes come with where the trace is."""
    if isinstance(error, SpecError):
        return {"kind": type(error).__name__, "problems": [encode(each) for each in error.problems]}
    if isinstance(error, StepFailed):
        return {"kind": "StepFailed", "step": error.step, "message": str(error)}
    if isinstance(error, DrawbarError):
        return {"kind": "error", "message": str(error), "exit_status": error.exit_status}
    traceback.print_exception(error)
    sys.stderr.flush()
    if isinstance(error, OSError):
        return {"kind": "error", "message": str(error), "exit_status": InfrastructureError.exit_status}
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = "".join(traceback.format_exception_only(error)).strip()
    return {"kind": "crash", "message": f"{what} ({Path(last.filename).name}, line {last.lineno})"}


def _limit(memory_mib: int | None) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_mib is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))


def _die_with_parent() -> None:
    """Have the kernel end this process with its parent, where it can; the socket's end does it elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_all() -> NoReturn:
    """End this process and all of its group; the engine's library may have started others."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _be_parent(name: str, control: socket.socket) -> None:
    """Fork an engine process for every request: a socket and an output file descriptor."""
    engine = load_plugins(kinds=("engine",)).engine(name)
    engine.preload()
    control.sendall(b"w")
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not descriptors:
            _reap(block=True)
            return
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            _die_with_parent()
            if os.getppid() != parent:
                os._exit(1)  # it died first
            control.close()
            os.dup2(descriptors[1], 1)
            os.dup2(descriptors[1], 2)
            os.close(descriptors[1])
            try:
                _be_engine(socket.socket(fileno=descriptors[0]))
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(pid.to_bytes(4, "big"))
        _reap(block=False)


def _reap(*, block: bool) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0 if block else os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(sys.argv[1:])
