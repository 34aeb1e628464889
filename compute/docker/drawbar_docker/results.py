"""What is told of an attempt, made from what the engine says of its container."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from drawbar.backend import Attempt, JobStatus
from drawbar.model import JobResult, JobState, Reason, judge

from drawbar_docker import records
from drawbar_docker.containers import IMAGE, stderr_of, stdout_of
from drawbar_docker.engine import Engine, EngineError
from drawbar_docker.records import Stop

ALIVE = frozenset({"created", "running", "paused", "restarting"})
"""What an engine calls a container that has not ended."""

_KILL = 128 + 9
_TERM = 128 + 15
_UNKNOWN = 255
NOT_STARTED = "its container was made, but nobody was left to start it"
REMOVED = "its container was removed by somebody else before its end was recorded"
_NO_SHELL = re.compile(r"exec /bin/sh failed|(/bin/sh|failed to exec).*no such file", re.IGNORECASE)
"""What Docker's init, the engines themselves and Podman's init (catatonit) say."""

Window = tuple[float, float]
"""From when to when the engine was gone."""


def look(engine: Engine, attempt: Attempt, container: str, outage: Window | None = None) -> JobResult | None:
    """How a container ended, as the engine and the attempt's record say; None while it has not.

    Raises `EngineError` with `not_found` when it is not there any more.
    """
    found = engine.inspect(container)
    if found["State"].get("Status") in ALIVE:
        return None
    log = ""
    if found["State"]["ExitCode"] != 0:
        with contextlib.suppress(EngineError):
            log = engine.log(container)
    stop, host = records.stop(attempt.record), engine.facts().name
    return ended(attempt, found, stop=stop, host=host, log=log, outage=outage)


def ended(
    attempt: Attempt,
    container: Mapping[str, Any],
    *,
    stop: Stop | None,
    host: str,
    log: str = "",
    outage: Window | None = None,
) -> JobResult:
    """The result of a container that has ended.

    `stop` is why drawbar asked it to, `log` what it printed before the job itself had its streams,
    which is why it could not be started, `outage` when the engine was last gone.
    """
    state = container["State"]
    code = int(state["ExitCode"])
    started, finished = when(state.get("StartedAt")), when(state.get("FinishedAt"))
    if started and finished:
        started = min(started, finished)  # the engine notes a start only after it, when a job may be over
    reason, message = judge(attempt.spec, code), ""
    if stop is not None and (finished is None or stop.time <= finished):
        reason = stop.reason
        message = "it ran longer than its wall time" if reason is Reason.TIMEOUT else ""
    elif reason is None:
        pass
    elif state.get("OOMKilled"):
        reason, message = Reason.OUT_OF_MEMORY, _over(attempt)
    elif code in (_KILL, _TERM, _UNKNOWN) and finished and outage and outage[0] <= finished <= outage[1]:
        reason, message = Reason.NODE_LOST, "the container engine was stopped while it ran"
    elif log:
        message = f"it could not be started: {log}"
        if _NO_SHELL.search(log):
            reason = Reason.IMAGE
            message = f"the image {attempt.spec.image} has no /bin/sh, which connects a job to its files"
    elif code == _KILL:
        reason, message = Reason.KILLED, "killed by signal 9 (SIGKILL)"
    return _result(
        attempt,
        exit_code=code,
        reason=reason,
        message=message,
        started=started,
        finished=finished,
        host=host,
        native_id=short(container["Id"]),
        image_digest=((container.get("Config") or {}).get("Labels") or {}).get(IMAGE),
    )


def failed(attempt: Attempt, reason: Reason, message: str, container: str | None = None) -> JobResult:
    """The result of an attempt that never ran, or is gone."""
    return _result(attempt, reason=reason, message=message, native_id=short(container or "") or None)


def lost(attempt: Attempt, stop: Stop | None, message: str, container: str | None = None) -> JobResult:
    """The result of an attempt that is proven to be gone, whether drawbar had asked it to end or not."""
    return failed(attempt, stop.reason if stop else Reason.LOST, message, container)


def status(attempt: Attempt, result: JobResult) -> JobStatus:
    """What is told of an attempt that ended."""
    return JobStatus(
        tag=attempt.tag,
        state=result.state,
        native_id=result.native_id or "",
        message=result.message,
        result=result,
    )


def alive(
    tag: str, state: JobState, native_state: str, container: str | None, message: str = ""
) -> JobStatus:
    """What is told of an attempt that has not ended."""
    return JobStatus(
        tag=tag, state=state, native_state=native_state, native_id=short(container or ""), message=message
    )


def when(text: str | None) -> float | None:
    """Seconds since the epoch; None for a time that the engine leaves open (the year 1)."""
    if not text or text.startswith("0001-"):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def short(container: str) -> str:
    """A container's id as people see it."""
    return container[:12]


def _over(attempt: Attempt) -> str:
    limit = attempt.spec.resources.memory_limit_mib
    return f"its memory passed its limit of {limit} MiB" if limit else "the machine had no more memory"


def _result(attempt: Attempt, **fields: Any) -> JobResult:
    return JobResult(stdout=stdout_of(attempt), stderr=stderr_of(attempt), **fields)
