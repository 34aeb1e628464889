"""What a pod says about the job in it, read from the pod's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drawbar.model import Reason

from drawbar_kubernetes import template

_INDEX = "batch.kubernetes.io/job-completion-index"
_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_CONFIGURATION = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_NO_START = frozenset({"StartError", "ContainerCannotRun"})
_NODE = frozenset({"NodeLost", "Shutdown", "NodeShutdown", "Terminated", "NodeAffinity"})
_GIVEN_BACK = frozenset(
    {
        "Evicted",
        "Preempting",
        "UnexpectedAdmissionError",
        "OutOfcpu",
        "OutOfmemory",
        "OutOfpods",
        "OutOfephemeral-storage",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod as it was last seen; what it does not say is None or empty.

    `part` is its index in an indexed Job. `dead` when no process of the job can be alive in it. `ended` is
    the exit code of the job's container, where there is one.
    """

    name: str
    part: int | None = None
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    node: str | None = None
    waiting: str = ""
    running: bool = False
    ended: int | None = None
    ended_reason: str = ""
    started: float | None = None
    finished: float | None = None
    deleting: bool = False
    disruption: str = ""
    unready: bool = False
    gone: bool = False

    @property
    def dead(self) -> bool:
        """Whether nothing runs in it any more."""
        return self.gone or self.ended is not None or self.phase in ("Failed", "Succeeded")

    @property
    def stuck(self) -> Reason | None:
        """What it will fail for, unless what it waits for comes about."""
        if self.dead or self.running:
            return None
        if self.waiting in _IMAGE:
            return Reason.IMAGE
        return Reason.REJECTED if self.waiting in _CONFIGURATION else None

    @property
    def state(self) -> str:
        """The cluster's word for it."""
        return self.waiting or self.reason or self.phase

    def verdict(self) -> tuple[Reason, str] | None:
        """Why its job is dead where that was not the job's own end, or None."""
        text = self.message or self.disruption or self.reason
        if self.reason == "DeadlineExceeded":
            return Reason.TIMEOUT, text
        if self.ended_reason == "OOMKilled" and self.ended != 0:
            return Reason.OUT_OF_MEMORY, "the kernel killed it at its memory limit"
        if self.ended_reason in _NO_START:
            return Reason.IMAGE, f"its container cannot start: {self.message}"
        if self.reason in _NODE or "NodeController" in self.disruption:
            return Reason.NODE_LOST, f"{self.reason}: {text}"
        if self.reason in _GIVEN_BACK:
            return Reason.EVICTED, f"{self.reason}: {text}"
        if self.deleting or self.disruption:
            return Reason.EVICTED, self.disruption or "its pod was deleted by somebody else"
        return None


def read(pod: Mapping[str, Any], *, gone: bool = False) -> Pod:
    """What a pod says; `gone` when it is the last that was seen of it."""
    metadata, spec, status = (pod.get(key) or {} for key in ("metadata", "spec", "status"))
    conditions = {each.get("type"): each for each in status.get("conditions") or ()}
    placed, ready = conditions.get("PodScheduled") or {}, conditions.get("Ready") or {}
    disrupted = conditions.get("DisruptionTarget") or {}
    containers = {each.get("name"): each for each in status.get("containerStatuses") or ()}
    state = (containers.get(template.JOB) or {}).get("state") or {}
    waiting, running, ended = (state.get(key) for key in ("waiting", "running", "terminated"))
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    if placed.get("status") == "False":
        reason, message = str(placed.get("reason") or "Unschedulable"), str(placed.get("message") or "")
    elif waiting and waiting.get("message"):
        message = f"{waiting.get('reason')}: {waiting['message']}"
    elif ended and ended.get("message"):
        message = message or str(ended["message"]).strip()
    return Pod(
        name=str(metadata.get("name", "")),
        part=int(index) if (index := (metadata.get("annotations") or {}).get(_INDEX)) else None,
        phase=str(status.get("phase") or "Pending"),
        reason=reason,
        message=message,
        node=spec.get("nodeName"),
        waiting=str((waiting or {}).get("reason") or ""),
        running=running is not None,
        ended=int(ended["exitCode"]) if ended and "exitCode" in ended else None,
        ended_reason=str((ended or {}).get("reason") or ""),
        started=when((ended or running or {}).get("startedAt")),
        finished=when((ended or {}).get("finishedAt")),
        deleting="deletionTimestamp" in metadata,
        disruption=str(disrupted.get("message") or disrupted.get("reason") or "")
        if disrupted.get("status") == "True"
        else "",
        unready=status.get("reason") == "NodeLost" or (ready.get("status") == "Unknown"),
        gone=gone,
    )


def when(text: Any) -> float | None:
    """Seconds since the epoch of a time that the cluster gives."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
