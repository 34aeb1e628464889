"""What HTCondor says about jobs: the attributes of their ads. All pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from drawbar.batchresults import Seen
from drawbar.model import JobState, Reason

from drawbar_htcondor.options import FAIL, RELEASES, WAIT

BATCH, ARRAY = "DrawbarBatch", "DrawbarArray"
"""Attributes of drawbar's own in a job's ad: the name of its batch, and whether that has several jobs."""

_ASKED = {"RequestCpus": "cores", "RequestMemory": "MB of memory", "RequestGPUs": "GPUs"}

PROJECTION = [
    *_ASKED,
    *("ClusterId", "ProcId", BATCH, ARRAY, "JobStatus", "RemoteHost", "LastRemoteHost"),
    *("NumJobStarts", "NumShadowStarts", "JobCurrentReconnectAttempt", "LastRejMatchReason"),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "NumHolds", "EnteredCurrentStatus", "ServerTime"),
    *("ExitCode", "ExitBySignal", "ExitSignal", "RemoveReason", "VacateReason", "VacateReasonCode"),
    *("TotalSubmitProcs", "JobMaterializeNextProcId", "JobMaterializePauseReason"),
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
_BY_USER, _BY_MACHINE, _SPOOLING, _OUT_OF_RESOURCES = 1, 21, 16, 34
"""Hold codes: by somebody, by the machine's policy, while input is on its way, by what the machine has."""
_MEMORY = 102
_DURATION = frozenset({46, 47})
_DISCONNECTED = 1008
"""Vacate code of a job whose machine was not heard of for as long as its lease."""
_FALSE_STARTS = 10
"""After so many tries to start a job that never started, HTCondor would go on for ever."""


def queued(ads: Iterable[Mapping[str, Any]], hold: str, release_s: float) -> Iterator[Seen]:
    """Jobs in the queue; `hold` is what is to become of held ones, after `release_s` where it is release."""
    for ad in ads:
        if "ProcId" not in ad:
            yield from _unmade(ad)
            continue
        status, code = _number(ad, "JobStatus"), _number(ad, "HoldReasonCode")
        state, reason, stuck = JobState.RUNNING, None, ""
        message = ""
        if status == _IDLE:
            state, message = JobState.SUBMITTED, _unmatched(ad)
            reason, stuck = _stalled(ad)
        elif status == _HELD and code != _SPOOLING:
            message = _text(ad, "HoldReason") or f"held with code {code}"
            reason = _held(ad, code, hold, release_s)
            stuck = message if reason else ""
        elif _number(ad, "JobCurrentReconnectAttempt"):
            message = "HTCondor has no contact with its machine"
        yield _seen(
            ad,
            state=state,
            native_state=_NAMES.get(status, str(status)),
            message=message,
            reason=reason,
            stuck=stuck,
        )


def _unmade(cluster: Mapping[str, Any]) -> Iterator[Seen]:
    """The jobs of a cluster that HTCondor is still to make (late materialisation)."""
    if "JobMaterializeNextProcId" not in cluster:
        return
    paused = _text(cluster, "JobMaterializePauseReason")
    for proc in range(_number(cluster, "JobMaterializeNextProcId"), _number(cluster, "TotalSubmitProcs")):
        yield _seen(
            {**cluster, "ProcId": proc},
            state=JobState.SUBMITTED,
            native_state="not materialized",
            message=paused,
        )


def _unmatched(ad: Mapping[str, Any]) -> str:
    """Why no machine was found for an idle job, with what it asks for; empty when none was looked for yet."""
    asked = [f"{number} {what}" for name, what in _ASKED.items() if (number := _number(ad, name))]
    reason = _text(ad, "LastRejMatchReason")
    return f"{reason} for {', '.join(asked)}" if reason and asked else reason


def _stalled(ad: Mapping[str, Any]) -> tuple[Reason | None, str]:
    """Why an idle job will not start, or not for the first time."""
    why = f": {reason}" if (reason := _text(ad, "VacateReason")) else ""
    if _number(ad, "NumJobStarts"):
        lost = _number(ad, "VacateReasonCode") == _DISCONNECTED
        return Reason.NODE_LOST if lost else Reason.EVICTED, f"HTCondor wants to start it again{why}"
    if (tries := _number(ad, "NumShadowStarts")) >= _FALSE_STARTS:
        return Reason.EVICTED, f"HTCondor tried {tries} times to start it{why}"
    return None, ""


def _held(ad: Mapping[str, Any], code: int, hold: str, release_s: float) -> Reason | None:
    """With what reason a held job ends now; None when it may go on."""
    if hold == WAIT:
        return None
    subcode = _number(ad, "HoldReasonSubCode")
    if code in (_BY_MACHINE, _OUT_OF_RESOURCES) and (
        subcode == _MEMORY or (code, subcode) == (_OUT_OF_RESOURCES, 0)
    ):
        return Reason.OUT_OF_MEMORY
    if code in _DURATION:
        return Reason.TIMEOUT
    if hold == FAIL or code == _BY_USER:
        return Reason.HELD
    if _number(ad, "NumJobStarts"):  # a job that has started is not released, but repeated as a new attempt
        held_s = _number(ad, "ServerTime") - _number(ad, "EnteredCurrentStatus")
        return Reason.EVICTED if held_s > release_s else None
    return Reason.HELD if _number(ad, "NumHolds") > RELEASES else None


def ended(ads: Iterable[Mapping[str, Any]]) -> Iterator[Seen]:
    """Jobs in the history."""
    for ad in ads:
        status = _number(ad, "JobStatus")
        if status == _REMOVED:
            why = _text(ad, "RemoveReason") or "it was removed"
            overtime = "PeriodicRemove" in why
            by_site = why.startswith("The system macro")
            yield _seen(
                ad,
                state=JobState.FAILED if overtime or by_site else JobState.CANCELLED,
                native_state="removed",
                message="HTCondor ended it at its time limit" if overtime else why,
                reason=Reason.TIMEOUT if overtime else Reason.KILLED if by_site else Reason.CANCELLED,
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
