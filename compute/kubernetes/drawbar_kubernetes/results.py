"""How an attempt ended: its own record first, then what the cluster says of its pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobResult, Reason, judge

from drawbar_kubernetes import records, script
from drawbar_kubernetes.manifest import stderr_of, stdout_of
from drawbar_kubernetes.pods import Pod
from drawbar_kubernetes.records import End, Start

TAKEN_ALONG = "another job of its pack was cancelled, which took its pod along"
"""Why there are no more pods for jobs of a pack that was deleted for another of its jobs."""
_KILL = 128 + 9


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of the Job of an attempt.

    `pods` by name; `complete` when there are certainly no others. `over` says, when the cluster will make
    no more pods for it, why that is. `packed` when its pods run more than this attempt, so that a pod's
    exit code is not the attempt's.
    """

    pods: Mapping[str, Pod]
    complete: bool = False
    over: str | None = None
    packed: bool = False


Stop = tuple[Reason, str]
"""Why drawbar asked an attempt to end."""


class Unclear(Exception):
    """Only a look at a pod, or when `pod` is None at all pods of the Job, as they are now can tell."""

    def __init__(self, pod: str | None) -> None:
        super().__init__(pod)
        self.pod = pod


def by_record(attempt: Attempt) -> JobResult | None:
    """The end by the attempt's own record, unless it was made to end from outside."""
    end = records.end(attempt.record)
    if end is None or end.why == records.SIGNAL:
        return None
    return _recorded(attempt, end, None)


def look(attempt: Attempt, view: View, stop: Stop | None, *, patient: bool) -> JobResult | None:
    """How an attempt ended, or None while it has not.

    `stop` is why drawbar asked it to end. `patient` when a record that is not visible yet may still
    appear. Raises `Unclear`, and OSError when the record cannot be read.
    """
    start = records.start(attempt.record)
    end = records.end(attempt.record)
    pod = view.pods.get(start.pod or "") if start else None
    if end is not None and end.why != records.SIGNAL:
        if end.exit_code == _KILL and not end.oom_kills and not view.packed and pod and not pod.dead:
            return None  # where the script cannot read that it was out of memory, its node tells
        return _recorded(attempt, end, pod)
    if start is None or start.closed:
        return _not_begun(attempt, view, stop, start, patient=patient)
    if start.pod is not None and pod is None:
        raise Unclear(start.pod)
    if pod is None:  # whoever began it is still writing its name, or died when it was about to
        if any(not each.dead for each in view.pods.values()):
            return None
        if not view.complete:
            raise Unclear(None)
        pod = Pod(name="", gone=True)
    if not pod.dead:
        return None
    end = end or records.end_anew(attempt.record)
    if end is not None and end.why != records.SIGNAL:
        return _recorded(attempt, end, pod)
    if pod.ended is not None and not pod.deleting and end is None and patient:
        return None
    return _made_to_end(attempt, start, end, pod, stop, view)


def _recorded(attempt: Attempt, end: End, pod: Pod | None) -> JobResult:
    """The end that the job's script has recorded."""
    if end.why == records.WALLTIME:
        limit = attempt.spec.resources.walltime_s
        message = f"it ran longer than its wall time of {limit or 0:g} s"
        return result(attempt, Reason.TIMEOUT, message, end=end, pod=pod)
    reason, message = judge(attempt.spec, end.exit_code), records.unable(attempt.record)
    if reason is not None and (end.oom_kills or (pod is not None and pod.ended_reason == "OOMKilled")):
        reason, message = Reason.OUT_OF_MEMORY, "the kernel killed a process of it at its memory limit"
    elif reason is not None and end.exit_code == _KILL:
        reason, message = Reason.KILLED, "killed by signal 9 (SIGKILL)"
    return result(attempt, reason, message, end=end, pod=pod, exit_code=end.exit_code)


def _not_begun(
    attempt: Attempt, view: View, stop: Stop | None, start: Start | None, *, patient: bool
) -> JobResult | None:
    """The end of an attempt that no pod has begun, if none will."""
    if stop is not None:
        return result(attempt, *stop) if start or records.close(attempt.record) else None
    if any(not pod.dead for pod in view.pods.values()):
        return None
    failed = [pod for pod in view.pods.values() if not pod.gone]
    if not failed and view.over is None and start is None:
        return None  # a pod is still to come
    if not view.complete:
        raise Unclear(None)
    if start is None and ((failed and patient) or not records.close(attempt.record)):
        return None
    for pod in failed or view.pods.values():
        if verdict := _verdict(pod, view.over):
            return result(attempt, *verdict, pod=pod)
        if pod.ended:
            message = pod.message or f"its container ended with {pod.ended} before it could begin"
            return result(attempt, Reason.REJECTED, message, pod=pod)
    return result(attempt, Reason.LOST, view.over or "its pod was deleted before it began")


def _made_to_end(
    attempt: Attempt, start: Start, end: End | None, pod: Pod, stop: Stop | None, view: View
) -> JobResult:
    """The end of an attempt whose pod is dead and whose command did not come to its own end."""
    told = partial(result, attempt, end=end, pod=pod, start=start)
    verdict = _verdict(pod, view.over)
    if stop is not None:
        return told(*stop)
    if verdict is not None:
        return told(*verdict)
    if end is not None:
        return told(Reason.EVICTED, "somebody else asked it to end")
    if pod.gone or pod.ended is None or pod.ended == script.AGAIN or (view.packed and pod.ended != _KILL):
        return told(Reason.LOST, "its pod is gone, and left no record of its end")
    if pod.ended == _KILL:
        return told(Reason.KILLED, "killed by signal 9 (SIGKILL)", exit_code=_KILL)
    reason = judge(attempt.spec, pod.ended)
    return told(reason, pod.message if reason else "", exit_code=pod.ended)


def _verdict(pod: Pod, over: str | None) -> tuple[Reason, str] | None:
    """What a pod says of its end; that it was deleted was drawbar's own doing for a pack."""
    verdict = pod.verdict()
    return (verdict[0], over) if verdict and over == TAKEN_ALONG and pod.deleting else verdict


def result(
    attempt: Attempt,
    reason: Reason | None,
    message: str,
    *,
    end: End | None = None,
    pod: Pod | None = None,
    start: Start | None = None,
    exit_code: int | None = None,
) -> JobResult:
    """A result, with what record and pod know besides; what neither knows is None."""
    started = (
        (end.started if end else None) or (start.time if start else None) or (pod.started if pod else None)
    )
    finished = (end.finished if end else None) or (pod.finished if pod else None)
    if started is not None and finished is not None:
        finished = max(started, finished)  # pods tell whole seconds
    return JobResult(
        exit_code=exit_code,
        reason=reason,
        message=message,
        started=started,
        finished=finished,
        cpu_s=end.cpu_s if end else None,
        peak_memory_mib=end.peak_memory_mib if end else None,
        host=pod.node if pod else None,
        stdout=stdout_of(attempt),
        stderr=stderr_of(attempt),
    )


def status(attempt: Attempt, name: str, found: JobResult) -> JobStatus:
    """What is told of an attempt that ended in the Job of this name."""
    found = replace(found, native_id=name or None)
    return JobStatus(
        tag=attempt.tag,
        state=found.state,
        native_id=name,
        message=found.message,
        result=found,
    )
