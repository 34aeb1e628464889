"""The Jobs that this driver has in the cluster, each with one attempt in it, or a pack of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobState

from drawbar_kubernetes import manifest
from drawbar_kubernetes.pods import Pod
from drawbar_kubernetes.results import Stop


class Phase(Enum):
    """How far a Job is."""

    QUEUED = "waits to be created"
    LAUNCHING = "is being created"
    CREATED = "Created"


@dataclass(slots=True, eq=False)
class Parcel:
    """A Job, with the attempts in it that have not ended. Changed under the backend's lock.

    `attempts` by tag. `size` of them run in one pod, one after another; an `indexed` Job has a pod for
    each such part, and `parts` says, once it is made, which an attempt is in.
    """

    name: str
    attempts: dict[str, Attempt]
    parts: dict[str, int] = field(default_factory=dict)
    size: int = 1
    indexed: bool = False
    phase: Phase = Phase.QUEUED
    pods: dict[str, Pod] = field(default_factory=dict)
    over: str | None = None
    """Why the cluster will make no more pods for it."""
    note: str = ""
    """What is told while there is no pod to tell of."""
    created: float = 0.0
    """Since when the cluster has it (monotonic)."""
    begun: set[str] = field(default_factory=set)
    """Tags that were told as running."""
    stops: dict[str, Stop] = field(default_factory=dict)
    stuck: dict[str, Stop] = field(default_factory=dict)
    """Why a pod, by its name, could not run when that was told last; it has not run since.

    A node that tries again tells of other states in between.
    """
    since: dict[str, float] = field(default_factory=dict)
    """Since when something is the matter (monotonic)."""
    looks: int = 0
    """How many have asked for a look at it that is not finished."""

    @property
    def packed(self) -> bool:
        """Whether its pods run more than one attempt."""
        return self.size > 1

    @property
    def unwanted(self) -> bool:
        """Whether its Job is to be deleted: to end an attempt that has begun, or since there is none left."""
        return not self.attempts or not self.attempts.keys().isdisjoint(self.stops)

    def in_parts(self) -> dict[int, list[Attempt]]:
        """The attempts of each part, in the order in which they run."""
        grouped: dict[int, list[Attempt]] = {}
        for tag, attempt in self.attempts.items():
            grouped.setdefault(self.parts.get(tag, 0), []).append(attempt)
        return grouped

    def pods_by_part(self) -> dict[int, dict[str, Pod]]:
        """The pods of each part, by name; of a Job that is not indexed there is one part."""
        grouped: dict[int, dict[str, Pod]] = {}
        for pod in self.pods.values():
            grouped.setdefault(pod.part or 0, {})[pod.name] = pod
        return grouped

    def statuses(self, part: int | None = None) -> list[JobStatus]:
        """What is told of the attempts in it, or in one part of it."""
        found = self.pods_by_part()
        return [
            self._status(attempt, _telling(found.get(each, {}).values()))
            for each, attempts in self.in_parts().items()
            if part in (None, each)
            for attempt in attempts
        ]

    def status(self, attempt: Attempt) -> JobStatus:
        """What is told of an attempt in it."""
        part = self.parts.get(attempt.tag, 0)
        return self._status(attempt, _telling(pod for pod in self.pods.values() if (pod.part or 0) == part))

    def _status(self, attempt: Attempt, pod: Pod | None) -> JobStatus:
        running = attempt.tag in self.begun
        return JobStatus(
            tag=attempt.tag,
            state=JobState.RUNNING if running else JobState.SUBMITTED,
            native_state=pod.state if pod else self.phase.value,
            native_id=self.name,
            message=(pod.message if pod else "") or self.note,
        )

    def lasts(self, what: str, holds: object) -> float:
        """For how many seconds something has been so, asked now and then; 0 when it is not."""
        if not holds:
            self.since.pop(what, None)
            return 0.0
        return time.monotonic() - self.since.setdefault(what, time.monotonic())


def parcel_of(attempts: Sequence[Attempt], size: int = 1, *, indexed: bool = False) -> Parcel:
    """A Job that is to be made for attempts."""
    tags = {attempt.tag: attempt for attempt in attempts}
    return Parcel(manifest.name_of(list(tags)), tags, size=size, indexed=indexed)


def _telling(pods: Iterable[Pod]) -> Pod | None:
    found = list(pods)
    return next((pod for pod in reversed(found) if not pod.dead), found[-1] if found else None)


@dataclass(slots=True)
class Table:
    """All parcels, by name and by tag, and what is known of ended attempts until they are forgotten."""

    by_name: dict[str, Parcel] = field(default_factory=dict)
    by_tag: dict[str, Parcel] = field(default_factory=dict)
    ended: dict[str, tuple[str, JobStatus]] = field(default_factory=dict)
    """By tag: the name of its Job, and how it ended."""
    held: dict[str, set[str]] = field(default_factory=dict)
    """Tags that keep a Job from being deleted, by its name."""

    def add(self, parcel: Parcel) -> Parcel:
        """Keep a parcel, or its attempts in the one of that name that is kept already."""
        kept = self.by_name.setdefault(parcel.name, parcel)
        for tag, attempt in parcel.attempts.items():
            kept.attempts[tag] = attempt
            kept.parts[tag] = parcel.parts.get(tag, 0)
            self.by_tag[tag] = kept
            self.held.setdefault(kept.name, set()).add(tag)
        return kept

    def end(self, name: str, status: JobStatus) -> bool:
        """An attempt has ended; False when that was known."""
        if status.tag in self.ended:
            return False
        self.ended[status.tag] = (name, status)
        self.held.setdefault(name, set()).add(status.tag)
        parcel = self.by_tag.pop(status.tag, None)
        if parcel is not None:
            parcel.attempts.pop(status.tag, None)
            if not parcel.attempts:
                self.by_name.pop(parcel.name, None)
        return True

    def forget(self, tags: Iterable[str]) -> list[str]:
        """Ended attempts need not be known any more; gives the Jobs that nobody needs."""
        unwanted = []
        for tag in tags:
            name, _ = self.ended.pop(tag, ("", None))
            if name and (held := self.held.get(name)) is not None:
                held.discard(tag)
                if not held:
                    del self.held[name]
                    unwanted.append(name)
        return unwanted
