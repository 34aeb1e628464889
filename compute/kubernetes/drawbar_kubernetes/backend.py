"""The Kubernetes backend: hands jobs to a cluster as `batch/v1` Jobs and tells how they ended."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    EventSink,
    InDoubt,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.errors import BackendError, Problem
from drawbar.model import JobSpec, Reason, Resources
from drawbar.options import Options as BaseOptions

from drawbar_kubernetes import manifest, pods, records, results, script
from drawbar_kubernetes.api import JOBS, PODS, Api
from drawbar_kubernetes.follow import Follower, apply_job
from drawbar_kubernetes.launch import Launcher
from drawbar_kubernetes.options import KubernetesHints, KubernetesOptions, wanted
from drawbar_kubernetes.parcels import Parcel, Phase, parcel_of
from drawbar_kubernetes.results import View

_INDEXES = (1, 24)
"""Since which version indexed Jobs are everywhere."""
_INDEXED = 1000
"""The most attempts in one of them: their directories are in its manifest."""


class KubernetesBackend(Backend):
    """Runs each job in a pod of a cluster.

    The name of a Job follows from its attempts, so that a repeated call is one Job. They outlive the driver,
    and a driver in a pod is as good as one outside.
    """

    name: ClassVar[str] = "kubernetes"
    api: ClassVar[int] = 1
    features: ClassVar[frozenset[BackendFeature]] = frozenset(
        {
            BackendFeature.CONTAINERS,
            BackendFeature.MEMORY_LIMIT,
            BackendFeature.WALLTIME,
            BackendFeature.GPUS,
            BackendFeature.SURVIVES_DRIVER,
        }
    )
    Options: ClassVar[type[BaseOptions]] = KubernetesOptions
    Hints: ClassVar[type[BaseOptions]] = KubernetesHints

    options: KubernetesOptions
    _launcher: Launcher
    _follower: Follower | None
    _indexes: bool = False
    """Whether the cluster has indexed Jobs."""

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self._api = Api(self.options.kubeconfig, self.options.context, self.options.namespace)
        self._follower = None

    def check(self) -> Sequence[Problem]:
        """Whether the cluster can be used: it answers, lets us, and its pods see our files."""
        from drawbar_kubernetes import checks

        try:
            return checks.problems(self._api, self.options, KubernetesBackend(self.options))
        except BackendError as error:
            hint = "does kubectl reach it with the same kubeconfig and context?" if error.transient else None
            return [Problem(message=f"kubernetes: {error}", hint=hint)]

    def resources(self, hints: BaseOptions, resources: Resources) -> Resources:
        """What a step asks for, with its `kubernetes_` hints."""
        assert isinstance(hints, KubernetesHints)
        return wanted(hints, self.options, resources)

    def refuses(self, spec: JobSpec) -> str | None:
        """A job without an image, without volumes to share, or with wishes that no pod can meet."""
        return manifest.cannot_run(spec, self.options)

    def start(self, events: EventSink) -> None:
        """Begin to watch. Raises `BackendError`, with the remedy, when no cluster answers."""
        self._indexes = self._api.version() >= _INDEXES
        self._follower = Follower(self._api, self.options, events)
        self._launcher = Launcher(self._api, self.options, self._follower)

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        """Take a batch; Jobs are made in the background."""
        follower = self._followed
        answers: dict[str, Submission] = {}
        groups: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            if (answer := self._take(attempt)) is not None:
                answers[attempt.tag] = answer
            else:
                groups.setdefault(manifest.alike(attempt), []).append(attempt)
        for group in groups.values():
            for parcel in self._parcels(group):
                answers |= dict.fromkeys(parcel.attempts, Accepted(native_id=parcel.name))
                with follower.lock:
                    follower.table.add(parcel)
                self._launcher.queue(parcel)
        return [answers[attempt.tag] for attempt in attempts]

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        """What the attempts' records and the cluster's Jobs and pods say, in one query for each kind."""
        answer: dict[str, JobStatus] = {}
        unknown = []
        for attempt in attempts:
            if status := self._known(attempt):
                answer[attempt.tag] = status
            elif Path(attempt.record).exists():
                unknown.append(attempt)
        if unknown:
            self._adopt(unknown)
            answer |= {each.tag: status for each in unknown if (status := self._known(each))}
        return answer

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """Delete their Jobs: TERM, and KILL after the grace."""
        follower = self._followed
        if unknown := [each for each in attempts if self._known(each) is None]:
            self.find(unknown)
        with follower.lock:
            parcels = {
                parcel.name: parcel for each in attempts if (parcel := follower.table.by_tag.get(each.tag))
            }
        tags = {attempt.tag for attempt in attempts}
        for parcel in parcels.values():
            follower.stop(parcel, Reason.CANCELLED, "", tags)

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """Their Jobs are deleted, with their pods."""
        follower = self._followed
        with follower.lock:
            unwanted = follower.table.forget(attempt.tag for attempt in attempts)
        follower.discard(unwanted)

    def close(self) -> None:
        """Stop watching. Jobs stay."""
        if self._follower is not None:
            self._launcher.close()
            self._follower.close()
            self._follower = None
        self._api.close()

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each verb of the API was used, for measurements."""
        return self._api.calls

    @property
    def ignored(self) -> Sequence[str]:
        """What the cluster has left out of what it was sent, without a word."""
        return self._launcher.ignored

    @property
    def _followed(self) -> Follower:
        if self._follower is None:
            raise BackendError("the kubernetes backend is not started, or closed")
        return self._follower

    def _known(self, attempt: Attempt) -> JobStatus | None:
        follower = self._followed
        with follower.lock:
            if ended := follower.table.ended.get(attempt.tag):
                return ended[1]
            parcel = follower.table.by_tag.get(attempt.tag)
            return parcel.status(attempt) if parcel else None

    # taking

    def _take(self, attempt: Attempt) -> Submission | None:
        """The answer to an attempt that needs no new Job, or None."""
        if status := self._known(attempt):
            return Accepted(native_id=status.native_id)
        if problem := manifest.refusal(attempt, self.options):
            return Refused(message=problem)
        try:
            mine = self._claim(attempt)
        except OSError as error:
            return Refused(message=f"the directory of its records cannot be made: {error}")
        if mine:
            return None
        status = self.find([attempt]).get(attempt.tag)
        if status is None:
            return InDoubt(message="another driver took it, and the cluster does not have it")
        return Accepted(native_id=status.native_id)

    def _claim(self, attempt: Attempt) -> bool:
        if not records.claim(attempt.record):
            return False
        self._write_job(attempt)
        return True

    def _write_job(self, attempt: Attempt) -> None:
        text = script.job_file(attempt, manifest.stdout_of(attempt), manifest.stderr_of(attempt))
        records.set_job(attempt.record, text)
        user, group = manifest.user_of(attempt.spec, self.options)
        if (user, group) != (os.getuid(), os.getgid()):
            _give(attempt.record, user, group)

    def _parcels(self, group: Sequence[Attempt]) -> list[Parcel]:
        """Attempts that are alike, put together as the step or the site asks for."""
        size = manifest.pack_of(group[0].spec, self.options)
        indexed = self._indexes and 1 < size < len(group)
        step = size * (_INDEXED // size or 1) if indexed else size
        parcels = [group[start : start + step] for start in range(0, len(group), step)]
        return [parcel_of(attempts, min(size, len(attempts)), indexed=indexed) for attempts in parcels]

    # going on with what an earlier driver began

    def _adopt(self, attempts: Sequence[Attempt]) -> None:
        """Learn of attempts that this object does not know and that were taken before.

        Those without a Job whose command was not begun are handed over again: under the same name, so that
        a call of an earlier driver which is still under way makes no second one. Those of a pack are handed
        over one by one; should the pack arrive after all, whoever comes later runs nothing.
        """
        follower = self._followed
        runs = {attempt.run for attempt in attempts}
        selector = ",".join(
            [manifest.SELECTOR, *(f"{manifest.RUN}={manifest.label(run)}" for run in runs if len(runs) == 1)]
        )
        jobs = _by_job(self._api.list(JOBS, selector)[0])
        found_pods = _by_job(self._api.list(PODS, selector)[0])
        names = {
            tag: name
            for found in (found_pods, jobs)
            for name, objects in found.items()
            for each in objects
            for tag in manifest.parts_of(each)
        }
        groups: dict[str, list[Attempt]] = {}
        for attempt in attempts:
            name = names.get(attempt.tag, "")
            if (ended := results.by_record(attempt)) is not None:
                follower.end(attempt, name, ended)
            elif name:
                groups.setdefault(name, []).append(attempt)
            else:
                self._again(attempt)
        for name, group in groups.items():
            self._go_on(name, group, jobs.get(name, ()), found_pods.get(name, ()))

    def _go_on(self, name: str, group: Sequence[Attempt], jobs: Sequence[Any], found: Sequence[Any]) -> None:
        follower = self._followed
        parts = manifest.parts_of([*found, *jobs][-1])
        parcel = Parcel(name, {each.tag: each for each in group}, parts, phase=Phase.CREATED)
        parcel.size = 1 if len(parts) == 1 else 2
        with follower.lock:
            parcel = follower.table.add(parcel)
            for job in jobs:
                apply_job(parcel, job, gone=False)
            if not jobs:
                parcel.over = "its Job was deleted by somebody else"
            for pod in found:
                follower.heard(parcel, pods.read(pod))
        for attempt in group:
            if reason := records.stop(attempt.record):
                follower.stop(parcel, reason, "", {attempt.tag})
        follower.watch_over(parcel)
        follower.look(parcel)

    def _again(self, attempt: Attempt) -> None:
        follower = self._followed
        start, stop = records.start(attempt.record), records.stop(attempt.record)
        if start is None and stop is None:
            self._write_job(attempt)
            parcel = parcel_of([attempt])
            with follower.lock:
                follower.table.add(parcel)
            self._launcher.queue(parcel)
            return
        view = View(pods={}, complete=True, over="the cluster does not have it")
        if start is not None and start.pod is not None:
            view = View(pods={start.pod: pods.Pod(name=start.pod, gone=True)}, complete=True)
        found = results.look(attempt, view, (stop, "") if stop else None, patient=False)
        if found is not None:
            follower.end(attempt, "", found)


def _give(record: str, user: int, group: int) -> None:
    """Let a job's user write in its directory: as its owner where that may be, else by its group."""
    try:
        os.chown(f"{record}/job", user, group)
        os.chown(record, user, group)
    except PermissionError:
        os.chown(record, -1, group)
        Path(record).chmod(0o770)


def _by_job(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for each in found:
        labels = each["metadata"].get("labels") or {}
        grouped.setdefault(labels.get(manifest.JOB, ""), []).append(each)
    return grouped
