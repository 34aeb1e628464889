"""What HTCondor says about jobs: the attributes of their ads. All pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from drawbar.batchresults import Seen
from drawbar.model import JobState, Reason

from drawbar_htcondor.options import FAIL, RELEASE, RELEASES

BATCH, ARRAY = "DrawbarBatch", "DrawbarArray"
"""Attributes of drawbar's own in a job's ad: the name of its batch, and whether that has several jobs."""

PROJECTION = [
    *("ClusterId", "ProcId", BATCH, ARRAY, "JobStatus", "RemoteHost", "LastRemoteHost", "NumJobStarts"),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "NumHolds", "LastRejMatchReason"),
    *("ExitCode", "ExitBySignal", "ExitSignal", "RemoveReason", "VacateReason"),
]

_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD = 1, 2, 3, 4, 5
_NAMES = {
    _IDLE: "idle",
    _RUNNING: "running",
    _REMOVED: "removed",
    _COMPLETED: "completed",
    _HELD: "held",
    6: "transferring output",
    7: "suspended",
}
_SPOOLING = 16
"""The hold code of a job whose input is on its way."""
_OUT_OF_RESOURCES, _MEMORY = 34, 102
_DURATION = frozenset({46, 47})


def queued(ads: Iterable[Mapping[str, Any]], hold: str) -> Iterator[Seen]:
    """Jobs in the queue; `hold` is what is to become of held ones."""
    for ad in ads:
        status, code = _number(ad, "JobStatus"), _number(ad, "HoldReasonCode")
        state, reason, stuck = JobState.RUNNING, None, ""
        message = _text(ad, "LastRejMatchReason") if status == _IDLE else ""
        if status == _IDLE:
            state = JobState.SUBMITTED
            if _number(ad, "NumJobStarts"):
                why = _text(ad, "VacateReason")
                reason, stuck = Reason.EVICTED, f"HTCondor wants to start it again{f': {why}' if why else ''}"
        elif status == _HELD and code != _SPOOLING:
            message = _text(ad, "HoldReason")
            final = _number(ad, "NumHolds") > RELEASES or code == 1
            if hold == FAIL or (hold == RELEASE and final):
                reason, stuck = _held(ad, code), message or f"held with code {code}"
        yield _seen(
            ad,
            state=state,
            native_state=_NAMES.get(status, str(status)),
            message=message,
            reason=reason,
            stuck=stuck,
        )


def ended(ads: Iterable[Mapping[str, Any]]) -> Iterator[Seen]:
    """Jobs in the history."""
    for ad in ads:
        status = _number(ad, "JobStatus")
        if status == _REMOVED:
            why = _text(ad, "RemoveReason") or "it was removed"
            overtime = "PeriodicRemove" in why
            yield _seen(
                ad,
                state=JobState.FAILED if overtime else JobState.CANCELLED,
                native_state="removed",
                message="HTCondor ended it at its time limit" if overtime else why,
                reason=Reason.TIMEOUT if overtime else Reason.CANCELLED,
            )
        elif status == _COMPLETED:
            killed = ad.get("ExitBySignal") is True
            code = None if killed else _number(ad, "ExitCode")
            yield _seen(
                ad,
                state=JobState.FINISHED if code == 0 else JobState.FAILED,
                native_state="completed",
                message=f"killed by signal {_number(ad, 'ExitSignal')}" if killed else "",
                reason=Reason.KILLED if killed else None,
                exit_code=code,
            )


def _held(ad: Mapping[str, Any], code: int) -> Reason:
    if code == _OUT_OF_RESOURCES and _number(ad, "HoldReasonSubCode") in (0, _MEMORY):
        return Reason.OUT_OF_MEMORY
    return Reason.TIMEOUT if code in _DURATION else Reason.HELD


def _seen(ad: Mapping[str, Any], **fields: Any) -> Seen:
    cluster, proc = _number(ad, "ClusterId"), _number(ad, "ProcId")
    host = _text(ad, "RemoteHost") or _text(ad, "LastRemoteHost")
    return Seen(
        batch=_text(ad, BATCH),
        index=proc + 1 if ad.get(ARRAY) is True else 0,
        native_id=f"{cluster}.{proc}",
        host=host.rpartition("@")[2] or None,
        **fields,
    )


def _text(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


def _number(ad: Mapping[str, Any], name: str) -> int:
    value = ad.get(name)
    return int(value) if isinstance(value, int | float) else 0
