"""What is told of an attempt, made from what its supervisor or its record says."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobResult, JobState, Reason, judge
from drawbar.runtime import made, why_unmade

from drawbar_local import containers


def running(tag: str, native_id: str = "", message: str = "") -> JobStatus:
    """An attempt that is alive, as far as anybody can tell."""
    return JobStatus(tag=tag, state=JobState.RUNNING, native_id=native_id, message=message)


def ended(attempt: Attempt, end: Mapping[str, Any]) -> JobStatus:
    """An attempt with an end in its record."""
    reason: Reason | None
    message = end["message"]
    if end["reason"]:
        reason = Reason(end["reason"])
    elif end["signal"]:
        reason = Reason.KILLED
        message = f"killed by {_signal_name(end['signal'])}{message}"
    else:
        reason = judge(attempt.spec, end["exit"])
    exit_code = end["exit"]
    if not end["reason"] and containers.used(attempt) and not made(attempt):
        exit_code, reason, message = None, Reason.IMAGE, why_unmade(attempt, message)
    native_id = str(end["pid"] or "")
    result = JobResult(
        exit_code=exit_code,
        reason=reason,
        message=message,
        started=end["started"],
        finished=end["finished"],
        cpu_s=end["cpu_s"],
        peak_memory_mib=end["peak_memory_mib"],
        host=end["host"],
        native_id=native_id or None,
        stdout=attempt.spec.stdout or f"{attempt.record}/stdout",
        stderr=attempt.spec.stderr or f"{attempt.record}/stderr",
    )
    return JobStatus(
        tag=attempt.tag, state=result.state, native_id=native_id, message=result.message, result=result
    )


def lost(attempt: Attempt) -> JobStatus:
    """An attempt of which nothing is alive, and no end is known."""
    result = JobResult(
        reason=Reason.LOST,
        message="its processes are gone, and so is the supervisor that would know how they ended",
        stdout=attempt.spec.stdout or f"{attempt.record}/stdout",
        stderr=attempt.spec.stderr or f"{attempt.record}/stderr",
    )
    return JobStatus(tag=attempt.tag, state=result.state, message=result.message, result=result)


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
