"""Follows the objects of one kind, for as long as it takes, whatever becomes of the API server meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drawbar.errors import BackendError

from drawbar_kubernetes.api import STARTING_S, Api, ApiError, Stream

_STREAM_S = 50.0
"""How long one watch lasts: less than the idle time-outs of usual proxies."""
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0

Object = Mapping[str, Any]


class Watcher:
    """A thread that lists the objects with some labels, and then hears of every change.

    `replace` gets the whole list, and the time (monotonic) when it was asked for: at first, and again
    after the server has forgotten where the watch was (410 Gone). `hear` gets each change with its type
    (ADDED, MODIFIED, DELETED). A watch that breaks off, or a server that is gone for a while, is resumed
    where it was. `trouble` is told that the server is gone, and, with an empty text, that it is back.
    Where it goes on to refuse the list or the watch, the thread dies of that `ApiError`, as nobody would
    learn of ends: then the drive ends, and jobs go on.
    """

    def __init__(
        self,
        api: Api,
        kind: str,
        selector: str,
        *,
        replace: Callable[[Sequence[Object], float], None],
        hear: Callable[[str, Object], None],
        trouble: Callable[[str], None],
    ) -> None:
        self._api = api
        self._kind = kind
        self._selector = selector
        self._replace = replace
        self._hear = hear
        self._trouble = trouble
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._version = ""
        self._gone = False
        self._refused: float | None = None
        """Since when the server refuses what it has to allow (monotonic)."""
        self.lists = 0
        """How often everything was listed."""
        self._thread = threading.Thread(target=self._run, name=f"drawbar-kubernetes-{kind}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no more."""
        self._closing.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        self._thread.join()

    def _run(self) -> None:
        pause = _PAUSE_S
        while not self._closing.is_set():
            try:
                if not self._version:
                    self._list()
                self._follow()
                pause = _PAUSE_S
            except BackendError as error:
                if isinstance(error, ApiError) and error.expired:
                    self._version = ""
                    continue
                if self._closing.is_set():
                    return
                self._bear(error)
                self._gone = True
                self._trouble(str(error))
                after = error.retry_after_s if isinstance(error, ApiError) else None
                self._closing.wait(max(pause, after or 0) * random.uniform(1.0, 1.5))  # noqa: S311
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _bear(self, error: BackendError) -> None:
        """Raises an error that waiting does not mend."""
        if not (isinstance(error, ApiError) and error.forbidden):
            self._refused = None
            return
        now = time.monotonic()
        self._refused = self._refused or now
        if now - self._refused > STARTING_S:
            raise error

    def _list(self) -> None:
        began = time.monotonic()
        objects, version = self._api.list(self._kind, self._selector)
        self._refused = None
        self.lists += 1
        self._replace(objects, began)
        self._version = version

    def _follow(self) -> None:
        """Hear of changes until the server ends the watch."""
        seconds = _STREAM_S * random.uniform(0.8, 1.0)  # noqa: S311
        stream = self._api.watch(self._kind, self._selector, self._version, seconds)
        self._refused = None
        with self._lock:
            self._stream = stream
            if self._closing.is_set():
                stream.close()
        if self._gone:
            self._gone = False
            self._trouble("")
        for event in stream:
            kind, found = str(event.get("type")), event.get("object") or {}
            if kind == "ERROR":
                raise ApiError(int(found.get("code") or 500), str(found.get("message") or found))
            version = (found.get("metadata") or {}).get("resourceVersion")
            if kind != "BOOKMARK":
                self._hear(kind, found)
            self._version = str(version or self._version)
