"""Makes Jobs in the cluster, each once, however often that takes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from drawbar.backend import Attempt
from drawbar.errors import BackendError
from drawbar.model import Reason

from drawbar_kubernetes import manifest, results
from drawbar_kubernetes.api import JOBS, STARTING_S, Api, ApiError, Rate
from drawbar_kubernetes.follow import Follower
from drawbar_kubernetes.options import KubernetesOptions
from drawbar_kubernetes.parcels import Parcel, Phase

_LAUNCHERS = 8
_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0


class Launcher:
    """For any thread. A Job whose creation is not answered is made again under its name, which is one Job."""

    def __init__(self, api: Api, options: KubernetesOptions, follower: Follower) -> None:
        self._api = api
        self._options = options
        self._follower = follower
        self._rate = Rate(options.creations_per_s)
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(_LAUNCHERS, "drawbar-kubernetes-launch")
        self.ignored: list[str] = []
        """What this cluster leaves out of what it is sent, without a word."""

    def queue(self, parcel: Parcel) -> None:
        """Have the Job of a parcel made."""
        with contextlib.suppress(RuntimeError):  # closed: a later driver does it
            self._pool.submit(self._launch, parcel)

    def close(self) -> None:
        """Make no more; what is under way is waited for."""
        self._closing.set()
        self._pool.shutdown(cancel_futures=True)

    def _launch(self, parcel: Parcel) -> None:
        pause = _PAUSE_S
        refused_until: float | None = None
        while not self._closing.is_set():
            try:
                with self._follower.lock:
                    attempts = list(parcel.attempts.values())
                    parcel.phase = Phase.LAUNCHING
                if not attempts:
                    return  # all were stopped
                made = self._create(parcel, attempts)
            except ApiError as error:
                now = time.monotonic()
                if error.forbidden:
                    refused_until = refused_until or now + STARTING_S
                starting = refused_until is not None and now < refused_until
                if not (error.transient or starting or "exceeded quota" in str(error)):
                    self._end(parcel, f"the cluster refused it: {error}")
                    return
                self._wait(parcel, str(error))
            except BackendError as error:
                refused_until = None
                self._wait(parcel, str(error))
            except Exception as error:
                self._end(parcel, f"it cannot be launched: {error!r}")
                return
            else:
                self._made(parcel, made)
                return
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _create(self, parcel: Parcel, attempts: Sequence[Attempt]) -> dict[str, Any]:
        """The Job as the cluster has it; an `ApiError` with status 409 when that is somebody else's."""
        body = manifest.job(
            attempts, self._options, name=parcel.name, size=parcel.size, indexed=parcel.indexed
        )
        self._rate.wait(self._closing)
        try:
            made = self._api.create(body)
        except ApiError as error:
            if not error.conflict:
                raise
            return self._there_already(parcel, attempts)
        if not self.ignored:
            self.ignored = list(manifest.dropped(body, made))
        return made

    def _there_already(self, parcel: Parcel, attempts: Sequence[Attempt]) -> dict[str, Any]:
        """The Job of that name, made by a call whose answer was lost."""
        try:
            found = self._api.get(JOBS, parcel.name)
        except ApiError as error:
            if error.not_found:
                raise BackendError(f"the Job {parcel.name} was deleted meanwhile", transient=True) from error
            raise
        if not manifest.runs(found, attempts):
            raise ApiError(409, f"there is a Job {parcel.name} already, and it is not of this run; delete it")
        return found

    def _made(self, parcel: Parcel, made: dict[str, Any]) -> None:
        with self._follower.lock:
            parcel.phase, parcel.created, parcel.note = Phase.CREATED, time.monotonic(), ""
            parcel.parts = manifest.parts_of(made)
        self._follower.hear_job("ADDED", made)
        self._follower.watch_over(parcel)
        if parcel.unwanted:
            self._follower.discard([parcel.name])
        self._follower.look_later(parcel)

    def _wait(self, parcel: Parcel, message: str) -> None:
        """Creation was refused for now, or not answered."""
        with self._follower.lock:
            parcel.note = message
            self._follower.tell(parcel)

    def _end(self, parcel: Parcel, message: str) -> None:
        for attempt in list(parcel.attempts.values()):
            self._follower.end(attempt, parcel.name, results.result(attempt, Reason.REJECTED, message))
