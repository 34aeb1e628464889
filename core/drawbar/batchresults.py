"""What came of an attempt on a batch system: the job's own record first, then the scheduler's word."""

from __future__ import annotations

from dataclasses import dataclass

from drawbar import batchscript
from drawbar.backend import Attempt, JobStatus
from drawbar.batchscript import End
from drawbar.model import JobResult, JobState, Reason, judge
from drawbar.runtime import why_unmade


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A job as the scheduler sees it.

    `index` counts from 1 in an array, and is 0 elsewhere. `state` is submitted or running while the
    scheduler has it, else an end; unknown states count as running, since nobody may repeat what may
    be alive. `reason` is the scheduler's own word on why it ended, where the exit code does not say
    it; `unless_begun` is its word if the job's script never began. `stuck` says why a job that is still
    there will not end well without help: it is removed, and ends with `reason`.
    """

    batch: str
    index: int = 0
    native_id: str = ""
    state: JobState = JobState.SUBMITTED
    native_state: str = ""
    message: str = ""
    reason: Reason | None = None
    unless_begun: Reason | None = None
    exit_code: int | None = None
    host: str | None = None
    stuck: str = ""


def by_record(attempt: Attempt, end: End) -> tuple[Reason | None, str]:
    """What the job's own record says: the reason and a message."""
    if end.why == batchscript.WALLTIME:
        limit = attempt.spec.resources.walltime_s
        return Reason.TIMEOUT, f"it ran longer than its wall time of {limit or 0:g} s"
    if end.container == "unmade" and not end.why and not end.oom_kills:
        return Reason.IMAGE, why_unmade(attempt, end.message)
    reason = judge(attempt.spec, end.exit_code)
    if reason is not None and end.oom_kills:
        return Reason.OUT_OF_MEMORY, f"the kernel killed {end.oom_kills} of its processes for memory"
    return reason, end.message


def by_scheduler(attempt: Attempt, seen: Seen, code: int) -> tuple[Reason | None, str]:
    """What the scheduler's exit code says, when the job left no record."""
    reason = judge(attempt.spec, code)
    return reason, "" if reason is None else f"{seen.native_state}: {seen.message or f'exit code {code}'}"


def ended(
    attempt: Attempt,
    reason: Reason | None,
    message: str,
    *,
    end: End | None = None,
    seen: Seen | None = None,
    native_id: str = "",
) -> JobStatus:
    """The final status of an attempt. What neither record nor scheduler knows is None."""
    spec = attempt.spec
    exit_code = end.exit_code if end else seen.exit_code if seen else None
    if end is not None and (end.why == batchscript.WALLTIME or reason is Reason.IMAGE):
        exit_code = None  # of a command that was made to end, or was never begun, it says nothing
    native_id = native_id or (seen.native_id if seen else "")
    started = end.started if end else None
    host = (end.host if end else None) or (seen.host if seen else None)
    if end is None and (start := batchscript.read_start(attempt.record)):
        started, host = start.started, start.host or host
    result = JobResult(
        exit_code=exit_code,
        reason=reason,
        message=message,
        started=started,
        finished=end.finished if end else None,
        cpu_s=end.cpu_s if end else None,
        peak_memory_mib=end.peak_memory_mib if end else None,
        host=host,
        native_id=native_id or None,
        stdout=spec.stdout or f"{attempt.record}/stdout",
        stderr=spec.stderr or f"{attempt.record}/stderr",
    )
    return JobStatus(
        tag=attempt.tag,
        state=result.state,
        native_state=seen.native_state if seen else "",
        native_id=native_id,
        message=message,
        result=result,
    )
