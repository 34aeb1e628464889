"""Child processes for the kit: a copy of this one, or a fresh interpreter, each with a deadline."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
Address = tuple[str, str, str]
"""Where a class is defined: module, file, name in the module."""


class ChildFailed(AssertionError):
    """What ran in the child raised an error, ended the process, or did not end in time."""


def forked(work: Callable[[Callable[[T], NoReturn]], T], deadline_s: float) -> T:
    """The result of `work` done in a copy of this process, which is gone afterwards.

    `work` is given a function that ends the process at once with a result, as a SIGKILL would end
    it: nothing is unwound. Raises `ChildFailed`. The result travels as a pickle.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        _serve(work, sending)
    os.close(sending)
    try:
        data = _receive(receiving, time.monotonic() + deadline_s)
    finally:
        os.close(receiving)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if data is None:
        raise ChildFailed(f"did not end within {deadline_s:g} s: it hangs")
    if not data:
        raise ChildFailed("ended its own process")
    error, result = pickle.loads(data)  # noqa: S301 (from our own copy)
    if error is not None:
        raise ChildFailed(error)
    return result  # type: ignore[no-any-return]


def _serve(work: Callable[[Callable[[T], NoReturn]], T], sending: int) -> NoReturn:
    def leave(result: Any, error: str | None = None) -> NoReturn:
        with open(sending, "wb") as pipe:
            pipe.write(pickle.dumps((error, result)))
        os._exit(0)

    try:
        leave(work(leave))
    except BaseException:
        leave(None, traceback.format_exc())


def _receive(descriptor: int, deadline: float) -> bytes | None:
    """Everything up to the end of the pipe; None when that does not come in time."""
    data = bytearray()
    while True:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(descriptor, 65536)
        if not piece:
            return bytes(data)
        data += piece


def address_of(cls: type) -> Address:
    """How a fresh interpreter finds a class, also one that a test file defines."""
    return cls.__module__, inspect.getfile(cls), cls.__qualname__


def find(address: Address) -> Any:
    """The class at an address."""
    module, file, name = address
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        spec = importlib.util.spec_from_file_location(module, file)
        if spec is None or spec.loader is None:
            raise
        found = importlib.util.module_from_spec(spec)
        sys.modules[module] = found
        spec.loader.exec_module(found)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def fresh(function: Callable[..., Any], *arguments: Any, hash_seed: str = "0", deadline_s: float) -> Any:
    """The JSON result of a module's function in an interpreter of its own. Raises `ChildFailed`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": hash_seed,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from drawbar.testing.child import main; main()"],
            input=pickle.dumps((function, arguments)),
            capture_output=True,
            env=environment,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ChildFailed(f"did not end within {deadline_s:g} s: it hangs") from None
    if done.returncode != 0:
        raise ChildFailed(done.stderr.decode(errors="replace"))
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """What the interpreter of `fresh` does."""
    function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started us)
    result = json.dumps(function(*arguments))
    print(f"\n{result}", flush=True)
