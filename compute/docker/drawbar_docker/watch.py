"""Listens to an engine's events, for as long as it takes, whatever becomes of the engine meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from drawbar.errors import BackendError

from drawbar_docker.containers import TAG
from drawbar_docker.engine import Engine, EventStream
from drawbar_docker.results import Window

_ENDS = frozenset({"die", "died", "destroy", "remove"})
_STREAM_S = 60.0
"""How long one stream of events lasts; what it may have missed is found when the next one begins."""
_OVERLAP_S = 2.0
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Watcher:
    """A thread that calls `ended` with the tag of each attempt whose container has ended, or is gone.

    Whenever a stream of events begins, `reconcile` is called, with the time that the engine was gone
    for, if it was; what both raise as `BackendError` ends the stream. `trouble` is told that the
    engine is gone; that it is back, `reconcile` finds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        ended: Callable[[str], None],
        reconcile: Callable[[Window | None], None],
        trouble: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._ended = ended
        self._reconcile = reconcile
        self._trouble = trouble
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._stream: EventStream | None = None
        self._thread = threading.Thread(target=self._run, name="drawbar-docker-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._closing.set()
        with self._lock:
            if self._stream is not None:
                self._stream.close()
        self._thread.join()

    def _run(self) -> None:
        heard, gone, pause = time.time(), 0.0, _PAUSE_S
        while not self._closing.is_set():
            try:
                stream = self._open(heard)
                self._reconcile((gone - _OVERLAP_S, time.time()) if gone else None)
                gone, pause = 0.0, _PAUSE_S
                for event in stream:
                    self._hear(event)
                heard = time.time()
                self._closing.wait(_PAUSE_S)  # an engine that ends streams at once is not asked in a frenzy
            except (BackendError, OSError) as error:
                gone = gone or heard
                if not self._closing.is_set():
                    self._trouble(str(error))
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _hear(self, event: Mapping[str, Any]) -> None:
        tag = ((event.get("Actor") or {}).get("Attributes") or {}).get(TAG)
        if tag and (event.get("Action") or event.get("status")) in _ENDS:
            self._ended(tag)

    def _open(self, heard: float) -> EventStream:
        stream = self._engine.events(heard - _OVERLAP_S, time.time() + _STREAM_S)
        with self._lock:
            self._stream = stream
            if self._closing.is_set():
                stream.close()
        return stream
