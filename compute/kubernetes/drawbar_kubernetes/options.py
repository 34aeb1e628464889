"""What `drawbar.toml` and the steps of a workflow may say to the Kubernetes backend."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from drawbar.model import Resources
from drawbar.options import Options, option

from drawbar_kubernetes import template

_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([EPTGMKk]i?|m)?")
_SUFFIXES = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)},
    "K": Decimal(1000),
}
_LABEL = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


class PullPolicy(StrEnum):
    """When a node fetches an image."""

    MISSING = "IfNotPresent"
    ALWAYS = "Always"
    NEVER = "Never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A file system that this machine and pods share: `path` is where both see it.

    One of `claim` (a persistent volume claim), `host_path`, `nfs` (`server:/path`) and `source` (any
    other volume as a pod has it, such as a CSI one) says what it is; `sub_path` which part of it is at
    `path`. With `everywhere` every job sees the whole of it, read-only.
    """

    path: str = ""
    claim: str | None = None
    host_path: str | None = None
    nfs: str | None = None
    source: Mapping[str, Any] | None = None
    sub_path: str = ""
    read_only: bool = False
    everywhere: bool = False

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or os.path.normpath(self.path) != self.path or ":" in self.path:
            raise ValueError(f"path {self.path!r} must be an absolute path in its shortest form, without ':'")
        if sum(each is not None for each in (self.claim, self.host_path, self.nfs, self.source)) != 1:
            raise ValueError(f"{self.path}: name one of claim, host_path, nfs and source")
        if self.nfs is not None and not re.fullmatch(r"[^:\s]+:/\S*", self.nfs):
            raise ValueError(f"{self.path}: nfs must be written server:/path")
        if self.source is not None and "hostPath" in self.source:
            raise ValueError(f"{self.path}: a path of the nodes is named with host_path")
        if self.sub_path.startswith("/") or ".." in self.sub_path.split("/"):
            raise ValueError(f"{self.path}: sub_path must be a relative path without '..'")

    @property
    def manifest(self) -> dict[str, Any]:
        """The volume as a pod has it, without its name."""
        if self.claim is not None:
            return {"persistentVolumeClaim": {"claimName": self.claim}}
        if self.host_path is not None:
            return {"hostPath": {"path": self.host_path, "type": "Directory"}}
        if self.nfs is not None:
            server, _, path = self.nfs.partition(":")
            return {"nfs": {"server": server, "path": path}}
        return dict(self.source or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesOptions(Options):
    """`[backends.kubernetes]`. What a step says wins over what is said here."""

    kubeconfig: str | None = option(
        None, help="file that says how to reach the cluster; else as kubectl, or the pod's own"
    )
    context: str | None = option(None, help="context of the kubeconfig, if not its current one")
    namespace: str | None = option(None, help="namespace of the jobs; the context's, or the pod's own")
    volumes: tuple[Volume, ...] = option((), help="file systems that this machine and pods share")
    service_account: str | None = option(
        None, help="service account of the jobs; the default one, without its token"
    )
    image_pull_secrets: tuple[str, ...] = option((), help="secrets with credentials of registries")
    image_pull_policy: PullPolicy | None = option(
        None, help="when nodes fetch images: IfNotPresent, Always, Never"
    )
    image_wait_s: float = option(
        300.0, help="seconds after which an image that cannot be fetched fails its jobs"
    )
    node_selector: Mapping[str, str] = option({}, help="labels that nodes must have")
    tolerations: tuple[Mapping[str, Any], ...] = option((), help="taints of nodes that jobs tolerate")
    affinity: Mapping[str, Any] = option({}, help="which nodes and neighbours jobs prefer or need")
    priority_class: str | None = option(None, help="priority class of jobs")
    queue: str | None = option(None, help="Kueue's local queue")
    user: int | None = option(None, help="user id that jobs run as; that of drawbar")
    group: int | None = option(None, help="group id that jobs run as; that of drawbar")
    least_user: int = option(100, help="the least user id that a step may ask for by kubernetes_uid")
    memory_request: str | None = option(None, help="memory request of jobs that name none")
    memory_limit: str | None = option(None, help="memory limit of jobs that name none")
    cpu_limit: str | None = option(None, help="bound on the CPUs of jobs that name none; else there is none")
    gpu_resource: str = option("nvidia.com/gpu", help="what the cluster calls a GPU")
    active_deadline_s: float | None = option(
        None, help="most seconds that any pod may be active, waiting for images counted"
    )
    labels: Mapping[str, str] = option({}, help="more labels of Jobs and pods")
    annotations: Mapping[str, str] = option({}, help="more annotations of Jobs and pods")
    pod_template: Mapping[str, Any] = option(
        {}, help="part of a pod template that is merged into that of every job"
    )
    pack: int = option(1, help="how many jobs of one scatter a pod runs, one after another")
    creations_per_s: float = option(50.0, help="most Jobs made in a second")
    ttl_s: int = option(
        86400, help="seconds after which the cluster removes an ended Job that drawbar did not"
    )
    grace_s: float = option(10.0, help="seconds between asking a job to end (TERM) and killing it")
    node_wait_s: float = option(
        900.0, help="seconds after which a job on a node that does not answer counts as lost"
    )
    check_image: str = option("busybox:latest", help="image of the pod that `drawbar backends check` starts")
    check_s: float = option(60.0, help="seconds that `drawbar backends check` waits for its pod")

    def __post_init__(self) -> None:
        for name in ("memory_request", "memory_limit", "cpu_limit"):
            if (text := getattr(self, name)) is not None:
                quantity(text, name)
        for name in ("labels", "annotations", "node_selector"):
            for key, value in getattr(self, name).items():
                if not _LABEL.fullmatch(key) or not isinstance(value, str):
                    raise ValueError(f"{name}: {key!r} must be a label name with a text as its value")
        if self.pack < 1 or not self.creations_per_s > 0 or self.grace_s < 0 or self.ttl_s < 60:
            raise ValueError(
                "pack and creations_per_s must be positive, grace_s not negative, ttl_s at least 60"
            )
        template.check(self.pod_template)


@dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesHints(Options):
    """What a step may say, each also as REANA spells it."""

    cpu_request: str | int | float | None = option(
        None, help="CPUs to reserve", aliases=("kubernetes_cpu_request",)
    )
    cpu_limit: str | int | float | None = option(
        None, help="bound on CPUs", aliases=("kubernetes_cpu_limit",)
    )
    memory_request: str | int | None = option(
        None, help="memory to reserve", aliases=("kubernetes_memory_request",)
    )
    memory_limit: str | int | None = option(None, help="memory limit", aliases=("kubernetes_memory_limit",))
    uid: int | str | None = option(None, help="user id to run as", aliases=("kubernetes_uid",))
    job_timeout: int | float | str | None = option(
        None, help="wall time in seconds", aliases=("kubernetes_job_timeout",)
    )
    pack: int | str | None = option(
        None, help="how many jobs of one scatter a pod runs", aliases=("kubernetes_pack",)
    )


def quantity(text: str | float, what: str) -> Decimal:
    """The number that a quantity of Kubernetes stands for; ValueError when it is none, or zero."""
    match = _QUANTITY.fullmatch(str(text).strip())
    number = Decimal(match[1]) * _SUFFIXES[match[2] or ""] if match else Decimal(0)
    if not number > 0:
        raise ValueError(f"{what}: {text!r} is no quantity such as 0.5, 500m, 512Mi or 2Gi")
    return number


def mebibytes(text: str | int, what: str) -> int:
    """MiB of a quantity of bytes, rounded up."""
    return math.ceil(quantity(text, what) / 2**20)


def whole(value: str | int | float, what: str, least: int) -> int:
    """A whole number that a step gives, perhaps as a text."""
    text = str(value).strip()
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{what}: {value!r} is no whole number of at least {least}")
    return int(text)


def wanted(hints: KubernetesHints, options: KubernetesOptions, resources: Resources) -> Resources:
    """The resources with what the hints change in them; ValueError when a hint makes no sense."""
    changes: dict[str, Any] = {}
    if hints.cpu_request is not None:
        changes["cpus"] = float(quantity(hints.cpu_request, "kubernetes_cpu_request"))
    if hints.cpu_limit is not None:
        quantity(hints.cpu_limit, "kubernetes_cpu_limit")
    if hints.memory_request is not None:
        changes["memory_mib"] = mebibytes(hints.memory_request, "kubernetes_memory_request")
    if hints.memory_limit is not None:
        changes["memory_limit_mib"] = mebibytes(hints.memory_limit, "kubernetes_memory_limit")
    if hints.job_timeout is not None:
        changes["walltime_s"] = float(whole(hints.job_timeout, "kubernetes_job_timeout", 1))
    if hints.uid is not None:
        whole(hints.uid, "kubernetes_uid", options.least_user)
    if hints.pack is not None:
        whole(hints.pack, "kubernetes_pack", 1)
    return replace(resources, **changes)
