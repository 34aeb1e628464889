"""Calls of a schedd with a deadline, through a process that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from typing import Any

from drawbar.batchcalls import Rejected
from drawbar.errors import BackendError


class Schedd:
    """For any thread; one call at a time. `drawbar_htcondor.helper` says which calls there are."""

    def __init__(self, *, schedd: str | None, pool: str | None, timeout_s: float) -> None:
        self._place = {"schedd": schedd, "pool": pool}
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def call(self, method: str, **arguments: Any) -> Any:
        """The answer of a call.

        Raises `Rejected` when there are no bindings, and `BackendError` with HTCondor's words, or when
        there was no answer in time: then what it was to do may have been done.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._lock.acquire(timeout=self._timeout_s):
            raise BackendError(f"HTCondor cannot {method}: an earlier call is waiting", transient=True)
        try:
            self._send([method, arguments])
            told = self._receive(deadline)
        except (OSError, ValueError) as error:
            self._end()
            raise BackendError(f"HTCondor cannot {method}: {error}", transient=True) from error
        finally:
            self._lock.release()
        if "missing" in told:
            raise Rejected(f"the bindings are missing ({told['missing']}); install drawbar[htcondor]")
        if "error" in told:
            words = " ".join(told["error"].split())
            raise BackendError(f"HTCondor cannot {method}: {words}", transient=True)
        return told["answer"]

    def close(self) -> None:
        """End the process; there is none after this."""
        with self._lock:
            self._closed = True
            self._end()

    def _send(self, request: Any) -> None:
        if self._closed:
            raise OSError("drawbar is closing")
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "drawbar_htcondor.helper"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is drawbar's
            )
            self._write([self._timeout_s, self._place])
        self._write(request)

    def _write(self, message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(message)}\n".encode())
        self._process.stdin.flush()

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        out, text = self._process.stdout, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while not text.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise OSError(f"no answer within {self._timeout_s:g} s")
                piece = os.read(out.fileno(), 1 << 20)
                if not piece:
                    raise OSError("the process that calls it has ended")
                text += piece
        told: dict[str, Any] = json.loads(text)
        return told

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None
