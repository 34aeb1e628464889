"""Follows the Jobs of this driver to their ends: hears of them, looks at them, and has them deleted."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from drawbar.backend import Attempt, EventSink
from drawbar.errors import BackendError
from drawbar.model import JobResult, Reason

from drawbar_kubernetes import manifest, pods, records, results
from drawbar_kubernetes.api import JOBS, PODS, Api, ApiError
from drawbar_kubernetes.options import KubernetesOptions
from drawbar_kubernetes.parcels import Parcel, Phase, Table
from drawbar_kubernetes.pods import Pod
from drawbar_kubernetes.results import Unclear, View
from drawbar_kubernetes.watch import Object, Watcher

_LOOKERS = 4
_TICK_S = 0.5
_SETTLE_S = 5.0
"""How long a record that should be there may be invisible, as on a network file system."""
_NO_POD_S = 3.0
_AGAIN_S = 5.0
SUSPENDED = "suspended: it waits in its queue"
_DELETED = "its Job was deleted by somebody else"


class Follower:
    """For any thread. `lock` guards `table`, and keeps what is told in order."""

    def __init__(self, api: Api, options: KubernetesOptions, events: EventSink) -> None:
        self._api = api
        self._options = options
        self._events = events
        self.lock = threading.RLock()
        self.table = Table()
        self._restless: set[Parcel] = set()
        self._unwanted: dict[str, float] = {}
        """Names of Jobs to delete, and when that was tried last (monotonic)."""
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._pool = ThreadPoolExecutor(_LOOKERS, "drawbar-kubernetes-look")
        self.watchers = tuple(
            Watcher(api, kind, manifest.SELECTOR, replace=replace, hear=hear, trouble=self._trouble)
            for kind, replace, hear in (
                (JOBS, self._replace_jobs, self.hear_job),
                (PODS, self._replace_pods, self._hear_pod),
            )
        )
        self._ticker = threading.Thread(target=self._tick, name="drawbar-kubernetes-tick", daemon=True)
        self._ticker.start()

    def close(self) -> None:
        """Follow no more; Jobs that nobody needs are deleted first, where the server lets them be."""
        self._closing.set()
        self._wake.set()
        self._ticker.join()
        for watcher in self.watchers:
            watcher.close()
        self._pool.shutdown()
        with contextlib.suppress(BackendError):
            self._delete(list(self._unwanted))

    # what the cluster says

    def _replace_jobs(self, objects: Sequence[Object], began: float) -> None:
        names = {_label(each) for each in objects}
        with self.lock:
            for parcel in list(self.table.by_name.values()):
                if parcel.phase is Phase.CREATED and parcel.created < began and parcel.name not in names:
                    parcel.over = parcel.over or _DELETED
                    self.look_later(parcel)
        for each in objects:
            self.hear_job("ADDED", each)

    def hear_job(self, kind: str, job: Object) -> None:
        """Something happened to a Job."""
        with self.lock:
            parcel = self.table.by_name.get(_label(job))
            if parcel is None:
                return
            apply_job(parcel, job, gone=kind == "DELETED")
            if parcel.over is not None:
                self.look_later(parcel)
            elif not parcel.pods:
                self.watch_over(parcel)
                self.tell(parcel)

    def _replace_pods(self, objects: Sequence[Object], began: float) -> None:
        seen = {str(each["metadata"]["name"]) for each in objects}
        with self.lock:
            for parcel in list(self.table.by_name.values()):
                missing = [name for name, pod in parcel.pods.items() if not pod.gone and name not in seen]
                for name in missing:
                    del parcel.pods[name]  # whether it is really gone is seen when it is looked at
                if missing or parcel.over is not None:
                    self.look_later(parcel)
        for each in objects:
            self._hear_pod("ADDED", each)

    def _hear_pod(self, kind: str, pod: Object) -> None:
        name = _label(pod)
        with self.lock:
            parcel = self.table.by_name.get(name)
            if parcel is not None:
                self.heard(parcel, pods.read(pod, gone=kind == "DELETED"))

    def heard(self, parcel: Parcel, pod: Pod) -> None:
        """A pod of a parcel is like this now; to be called with the lock."""
        before = parcel.pods.pop(pod.name, None)
        parcel.pods[pod.name] = pod
        if pod.running and not parcel.packed:
            parcel.begun.update(parcel.attempts)
        if pod.running or pod.dead:
            parcel.stuck.pop(pod.name, None)
        elif pod.stuck:
            parcel.stuck[pod.name] = (pod.stuck, pod.message or pod.waiting)
        if pod.dead:
            self.look_later(parcel)
        elif pod.stuck or pod.unready or pod.node:
            self.watch_over(parcel)
        if (
            before is None
            or (before.state, before.message) != (pod.state, pod.message)
            or pod.running != before.running
        ):
            self.tell(parcel, pod.part)

    # looking for ends

    def watch_over(self, parcel: Parcel) -> None:
        """Look at a parcel now and then until there is no more need to."""
        with self.lock:
            self._restless.add(parcel)
        self._wake.set()

    def look_later(self, parcel: Parcel) -> None:
        """Have somebody look whether attempts of a parcel have ended."""
        with self.lock:
            parcel.looks += 1
            if parcel.looks > 1:
                return  # who looks at it now looks once more
        self.later(self._look, parcel)

    def _look(self, parcel: Parcel) -> None:
        looks = 0
        try:
            while parcel.looks > looks:
                looks = parcel.looks
                self.look(parcel)
        except (BackendError, OSError):
            self.watch_over(parcel)
            raise
        finally:
            with self.lock:
                again, parcel.looks = parcel.looks > looks, 0
        if again:
            self.look_later(parcel)

    def look(self, parcel: Parcel) -> None:
        """Tell of attempts of a parcel that have ended. Raises what keeps it from seeing that."""
        with self.lock:
            parts, known = parcel.in_parts(), parcel.pods_by_part()
        for part, attempts in parts.items():
            self._look_at(parcel, part, attempts, known.get(part, {}))
        with self.lock:
            if parcel.attempts and (
                parcel.over is not None or (parcel.pods and all(pod.dead for pod in parcel.pods.values()))
            ):
                self.watch_over(parcel)

    def _look_at(
        self, parcel: Parcel, part: int, attempts: Sequence[Attempt], known: Mapping[str, Pod]
    ) -> None:
        """Tell of the attempts of one part that have ended; `known` are its pods."""
        with self.lock:
            over, stops = parcel.over, dict(parcel.stops)
            dead = any(pod.dead for pod in known.values())
            patient = parcel.lasts(f"settling {part}", dead) < _SETTLE_S
        view = View(pods=known, over=over, packed=parcel.packed)
        for attempt in attempts:
            while True:
                try:
                    found = results.look(attempt, view, stops.get(attempt.tag), patient=patient)
                    break
                except Unclear as unclear:
                    seen = self._see(parcel, part, unclear.pod)
                    complete = view.complete or unclear.pod is None
                    view = replace(view, pods={**seen, **view.pods}, complete=complete)
            if found is not None:
                self.end(attempt, parcel.name, found)
                continue
            if records.start(attempt.record) is not None:
                self._begun(parcel, attempt)
            if not (dead or stops or over is not None):
                break  # those that come after it have not begun

    def _see(self, parcel: Parcel, part: int, name: str | None) -> dict[str, Pod]:
        """A pod, or all pods of a part, as they are now."""
        if name is None:
            listed, _ = self._api.list(PODS, f"{manifest.JOB}={parcel.name}")
            found = [pods.read(each) for each in listed]
            return {pod.name: pod for pod in found if (pod.part or 0) == part}
        try:
            return {name: pods.read(self._api.get(PODS, name))}
        except ApiError as error:
            if not error.not_found:
                raise
            return {name: Pod(name=name, gone=True)}

    def _begun(self, parcel: Parcel, attempt: Attempt) -> None:
        with self.lock:
            if attempt.tag in parcel.attempts and attempt.tag not in parcel.begun:
                parcel.begun.add(attempt.tag)
                self._events.status([parcel.status(attempt)])

    def end(self, attempt: Attempt, name: str, found: JobResult) -> None:
        """An attempt has ended: tell it, once."""
        status = results.status(attempt, name, found)
        with self.lock:
            if self.table.end(name, status):
                self._events.status([status])

    def tell(self, parcel: Parcel, part: int | None = None) -> None:
        """Tell how the attempts of a parcel, or of one part, are; to be called with the lock."""
        if statuses := parcel.statuses(part):
            self._events.status(statuses)

    # what is done without being told

    def _tick(self) -> None:
        explained = float("-inf")
        while not self._closing.is_set():
            self._wake.wait(_TICK_S if self._restless or self._unwanted else None)
            self._wake.clear()
            with self.lock:
                restless = list(self._restless)
                unwanted = list(self._unwanted.items())
            now = time.monotonic()
            alone = []
            for parcel in restless:
                try:
                    if self._mind(parcel):
                        alone.append(parcel)
                except (BackendError, OSError) as error:  # what is away is asked again
                    self._trouble(str(error))
            if alone and now - explained > _AGAIN_S:
                explained = now
                self.later(self._explain, alone)
            due = [name for name, tried in unwanted if now - tried > _AGAIN_S]
            if due and not self._closing.is_set():
                try:
                    self._delete(due)
                except BackendError as error:
                    self._trouble(str(error))
            # no more than half of the time, so that a slow file system with many records is not overrun
            self._closing.wait(max(_TICK_S, time.monotonic() - now))

    def _mind(self, parcel: Parcel) -> bool:
        """See to a parcel that may be in trouble, or of whose progress nobody tells.

        True when it has had no pod for a while, and nobody has said why.
        """
        options = self._options
        with self.lock:
            if not parcel.attempts or parcel.phase is not Phase.CREATED:
                self._restless.discard(parcel)
                return False
            found = [pod for pod in parcel.pods.values() if not pod.dead]
            stuck = [
                (pod.part or 0, parcel.stuck[pod.name])
                for pod in found
                if parcel.lasts(f"stuck {pod.name}", pod.name in parcel.stuck) > options.image_wait_s
            ]
            silent = [
                pod for pod in found if parcel.lasts(f"silent {pod.name}", pod.unready) > options.node_wait_s
            ]
            alone_s = parcel.lasts("alone", not parcel.pods)
            stops = any(tag in parcel.stops for tag in parcel.attempts)
            stop_s = parcel.lasts("stopping", stops)
            dead = parcel.over is not None or len(found) < len(parcel.pods)
            suspended = parcel.note == SUSPENDED
            trouble = any(pod.stuck or pod.unready for pod in found) or (not parcel.pods and not suspended)
            placed = any(pod.node for pod in found)
            if not (trouble or stops or dead or placed):
                self._restless.discard(parcel)
        for part, (reason, message) in stuck:
            with self.lock:
                tags = {attempt.tag for attempt in parcel.in_parts().get(part, ())}
            self.stop(parcel, reason, message, tags)
        for pod in silent:
            self._lose(parcel, pod)
        if stops and stop_s > _AGAIN_S:  # somebody may have kept it from being deleted
            parcel.lasts("stopping", False)
            self.discard([parcel.name])
        if dead or stops or (placed and (parcel.packed or _recorded(parcel))):
            self.look_later(parcel)
        return alone_s > _NO_POD_S and not suspended

    def _lose(self, parcel: Parcel, pod: Pod) -> None:
        """A pod's node is silent: what began in it is lost, and what could only begin in it does not.

        Its cluster deletes a pod on such a node (after 5 minutes, by default), which ends it should the node
        come back.
        """
        with self.lock:
            part = pod.part or 0
            attempts = parcel.in_parts().get(part, [])
            others = any(
                not each.dead and each.name != pod.name
                for each in parcel.pods_by_part().get(part, {}).values()
            )
        for attempt in attempts:
            if (found := results.by_record(attempt)) is not None:
                self.end(attempt, parcel.name, found)
                continue
            start = records.start(attempt.record)
            if start is None or start.closed:
                lost = not others and records.close(attempt.record)
            else:
                lost = start.pod == pod.name
            if lost:
                message = f"its node {pod.node} does not answer"
                self.end(attempt, parcel.name, results.result(attempt, Reason.NODE_LOST, message, pod=pod))
        if not parcel.attempts:
            self.discard([parcel.name])

    def _explain(self, parcels: Sequence[Parcel]) -> None:
        """Say why these have no pod, as when a quota is used up: in one call, however many there are."""
        warnings = self._api.warnings()
        with self.lock:
            for parcel in parcels:
                note = warnings.get(parcel.name, "the cluster has made no pod for it yet")
                if not parcel.pods and parcel.note != note:
                    parcel.note = note
                    self.tell(parcel)

    def stop(self, parcel: Parcel, reason: Reason, message: str, tags: Iterable[str] | None = None) -> None:
        """Have attempts of a parcel ended for a reason; the first one counts.

        Those that have not begun cannot any more, and leave the others of their pack alone.
        """
        with self.lock:
            new = [
                attempt
                for tag, attempt in parcel.attempts.items()
                if tag not in parcel.stops and (tags is None or tag in tags)
            ]
            for attempt in new:
                parcel.stops[attempt.tag] = (reason, message)
        for attempt in new:
            with contextlib.suppress(OSError):  # then a later driver takes it for evicted
                records.set_stop(attempt.record, reason)
                if records.close(attempt.record):
                    self.end(attempt, parcel.name, results.result(attempt, reason, message))
        with self.lock:
            if parcel.unwanted and parcel.attempts.keys() - parcel.stops.keys():
                parcel.over = parcel.over or results.TAKEN_ALONG
        if parcel.phase is Phase.CREATED and new and parcel.unwanted:
            self.look_later(parcel)
            self.discard([parcel.name])
            self.watch_over(parcel)

    def discard(self, names: Iterable[str]) -> None:
        """Have Jobs deleted that nobody needs any more."""
        with self.lock:
            for name in names:
                self._unwanted.setdefault(name, float("-inf"))
        self._wake.set()

    def _delete(self, names: Sequence[str]) -> None:
        with self.lock:
            for name in names:
                self._unwanted[name] = time.monotonic()
        self._api.delete(manifest.JOB, names)
        with self.lock:
            for name in names:
                self._unwanted.pop(name, None)

    def later(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have a function called on another thread; what it raises is told as trouble."""

        def work() -> None:
            try:
                function(*arguments)
            except Exception as error:
                if not self._closing.is_set():
                    self._events.trouble(str(error) or repr(error))

        with contextlib.suppress(RuntimeError):  # closed: a later driver does it
            self._pool.submit(work)

    def _trouble(self, message: str) -> None:
        if not self._closing.is_set():
            self._events.trouble(message)


def _recorded(parcel: Parcel) -> bool:
    """Whether an attempt has recorded its end, of which its node may tell much later. Raises OSError."""
    return any(results.by_record(attempt) is not None for attempt in list(parcel.attempts.values()))


def apply_job(parcel: Parcel, job: Mapping[str, Any], *, gone: bool) -> None:
    """What a Job's own state says about the parcel."""
    if gone:
        parcel.over = parcel.over or _DELETED
        return
    status = job.get("status") or {}
    for each in status.get("conditions") or ():
        if each.get("status") != "True":
            continue
        if each.get("type") in ("Failed", "Complete"):
            text = f"{each.get('reason') or each['type']}: {each.get('message') or ''}".strip(": ")
            parcel.over = parcel.over or text
        elif each.get("type") == "Suspended":
            parcel.note = SUSPENDED
    if parcel.note == SUSPENDED and not (job.get("spec") or {}).get("suspend"):
        parcel.note = ""


def _label(found: Mapping[str, Any]) -> str:
    return str((found.get("metadata", {}).get("labels") or {}).get(manifest.JOB, ""))
