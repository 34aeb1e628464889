"""The Job that runs an attempt, or a pack of them: what the cluster is asked to make."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from drawbar import mounts
from drawbar.backend import Attempt
from drawbar.errors import SettingsError
from drawbar.model import JobSpec, Mount, Resources

from drawbar_kubernetes import script, template
from drawbar_kubernetes.options import (
    KubernetesHints,
    KubernetesOptions,
    Volume,
    mebibytes,
    quantity,
    whole,
)

MANAGER = "app.kubernetes.io/managed-by"
SELECTOR = f"{MANAGER}=drawbar"
TAG = "drawbar.tag"
RUN = "drawbar.run"
STEP = "drawbar.step"
JOB = "drawbar.job"
"""Labels of every Job and pod: the attempt's tag (a pack has none), the run, the step, the Job's name."""
RECORD = "drawbar.record"
"""Annotation: the directory of the attempt, or of the first of a pack."""
TAGS = "drawbar.tags"
"""Annotation: a list, in JSON, with a list for each pod of the tags of its attempts, in their order."""
NETWORK = "drawbar.network"
"""Label of pods that need no network, by which a site's network policy may keep them from it."""
QUEUE = "kueue.x-k8s.io/queue-name"

_FETCH_S = 3600
"""How long images may take before the cluster itself ends a pod that has a wall time."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,49}[a-z0-9])?")


def name_of(tags: Sequence[str]) -> str:
    """The name of the Job that runs these attempts, short enough for those of its pods.

    Tags are unique, so a second creation is a conflict, whoever asks for it.
    """
    if len(tags) == 1 and _NAME.fullmatch(tags[0]):
        return tags[0]
    return f"db-{hashlib.sha256(json.dumps(tags).encode()).hexdigest()[:32]}"


def parts_of(found: Mapping[str, Any]) -> dict[str, int]:
    """The tags of the attempts that a Job or a pod runs, and in which of the Job's pods each is."""
    try:
        parts = json.loads((found["metadata"].get("annotations") or {})[TAGS])
        return {str(tag): number for number, part in enumerate(parts) for tag in part}
    except (KeyError, TypeError, ValueError):
        return {}


def runs(found: Mapping[str, Any], attempts: Sequence[Attempt]) -> bool:
    """Whether a Job is the one of these attempts, which are of one run, and not somebody else's."""
    record = str((found["metadata"].get("annotations") or {}).get(RECORD, ""))
    beside = Path(record).parent == Path(attempts[0].record).parent
    return beside and {attempt.tag for attempt in attempts} <= parts_of(found).keys()


def label(text: str) -> str:
    """A text as the value of a label: its usual characters, at most 63 of them."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text)[:63].strip("_.-")


def stdout_of(attempt: Attempt) -> str:
    """Where the job's standard output goes."""
    return attempt.spec.stdout or f"{attempt.record}/stdout"


def stderr_of(attempt: Attempt) -> str:
    """Where the job's standard error goes."""
    return attempt.spec.stderr or f"{attempt.record}/stderr"


def hints_of(spec: JobSpec) -> KubernetesHints:
    """What the step said to this backend; ValueError when it cannot be understood."""
    values = next(iter(spec.hints.values()), {})  # a job has hints for the backend it is placed on
    try:
        return KubernetesHints.parse(values, where=f"step {spec.step}")
    except SettingsError as error:
        raise ValueError(str(error)) from error


def user_of(spec: JobSpec, options: KubernetesOptions) -> tuple[int, int]:
    """The user and the group that a job runs as."""
    hints = hints_of(spec)
    user = os.getuid() if options.user is None else options.user
    if hints.uid is not None:
        user = whole(hints.uid, "kubernetes_uid", options.least_user)
    return user, os.getgid() if options.group is None else options.group


def pack_of(spec: JobSpec, options: KubernetesOptions) -> int:
    """How many jobs like this a pod is to run."""
    hints = hints_of(spec)
    return options.pack if hints.pack is None else whole(hints.pack, "kubernetes_pack", 1)


def alike(attempt: Attempt) -> str:
    """Equal for attempts that may share a pod: same run and step, and the same wishes."""
    spec = attempt.spec
    wishes = (attempt.run, attempt.workspace, spec.step, spec.image, spec.workspace, spec.network)
    place = (spec.entry_point, spec.mounts, spec.collection_root)
    return repr((*wishes, spec.resources, *place, sorted(spec.hints.items())))


def refusal(attempt: Attempt, options: KubernetesOptions) -> str | None:
    """Why an attempt cannot be given to a pod as it is, or None."""
    if problem := cannot_run(attempt.spec, options):
        return problem
    if odd := script.unfit_variables(attempt):
        return f"the variable {odd[0]!r} has a name that a shell cannot pass on"
    shared = tuple(volume.path for volume in options.volumes if volume.read_only or volume.everywhere)
    if problem := mounts.refusal(attempt, shared):
        return problem
    for mount in _seen([attempt]):
        if ":" in mount.target:
            return f"{mount.target} has a ':' in it, which no path of a pod may have"
        if _volume(mount.source, options.volumes) is None:
            known = ", ".join(volume.path for volume in options.volumes)
            return f"{mount.source} is on none of the `volumes` that pods share with this machine: {known}"
    return None


def cannot_run(spec: JobSpec, options: KubernetesOptions) -> str | None:
    """Why no pod can run a job like this, or None."""
    if spec.image is None:
        return "it has no image to run in"
    if not options.volumes:
        return "no `volumes` are named in [backends.kubernetes], so that pods cannot see a workspace"
    try:
        hints_of(spec)
        user_of(spec, options)
    except ValueError as error:
        return str(error)
    return None


def job(
    attempts: Sequence[Attempt], options: KubernetesOptions, *, name: str, size: int, indexed: bool = False
) -> dict[str, Any]:
    """The Job that runs attempts that are alike, `size` of them in a pod, one after another.

    More than `size` need an indexed Job, which has a pod for each part.
    """
    first = attempts[0]
    spec = first.spec
    metadata = _metadata(attempts, options, name, size)
    pod = template.merge({"metadata": metadata, "spec": _pod(attempts, options, size)}, options.pod_template)
    body: dict[str, Any] = {
        "backoffLimit": 0,
        "ttlSecondsAfterFinished": options.ttl_s,
        "template": pod,
    }
    if indexed:
        pods = math.ceil(len(attempts) / size)
        body |= {"completionMode": "Indexed", "completions": pods, "parallelism": pods, "backoffLimit": pods}
    annotations = {**metadata["annotations"], "drawbar.name": spec.name}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": metadata["labels"], "annotations": annotations},
        "spec": body,
    }


def dropped(sent: Any, kept: Any, where: str = "") -> Iterator[str]:
    """What the server left out of an object without a word, as a server does that is too old for it."""
    if isinstance(sent, Mapping) and isinstance(kept, Mapping):
        for key, value in sent.items():
            place = f"{where}.{key}" if where else str(key)
            if key in kept:
                yield from dropped(value, kept[key], place)
            elif value not in (None, False, 0, "", [], {}):
                yield place
    elif isinstance(sent, list) and isinstance(kept, list):
        for index, (value, other) in enumerate(zip(sent, kept, strict=False)):
            yield from dropped(value, other, f"{where}[{index}]")


def _metadata(
    attempts: Sequence[Attempt], options: KubernetesOptions, name: str, size: int
) -> dict[str, Any]:
    first = attempts[0]
    labels = {
        **options.labels,
        MANAGER: "drawbar",
        JOB: name,
        RUN: label(first.run),
        STEP: label(first.spec.step),
    }
    if len(attempts) == 1:
        labels[TAG] = label(first.tag)
    if not first.spec.network:
        labels[NETWORK] = "none"
    if options.queue:
        labels[QUEUE] = options.queue
    tags = [each.tag for each in attempts]
    parts = [tags[start : start + size] for start in range(0, len(tags), size)]
    annotations = {
        "sidecar.istio.io/inject": "false",  # a mesh's sidecar would keep the pod from ending
        **options.annotations,
        RECORD: first.record,
        TAGS: json.dumps(parts, separators=(",", ":")),
    }
    return {"labels": {key: value for key, value in labels.items() if value}, "annotations": annotations}


def _pod(attempts: Sequence[Attempt], options: KubernetesOptions, size: int) -> dict[str, Any]:
    first = attempts[0]
    spec = first.spec
    user, group = user_of(spec, options)
    volumes, volume_mounts = _mounts(attempts, options)
    groups = sorted(set(os.getgroups()) - {group}) if options.user is None else []
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(options.grace_s) + 2,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsUser": user,
            "runAsGroup": group,
            "runAsNonRoot": user != 0,
            "supplementalGroups": groups,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": template.JOB,
                "image": spec.image,
                # Arguments alone are given to the image's entry point, which is to end with `exec "$@"`.
                "args" if spec.entry_point else "command": [
                    _escaped(text)
                    for text in script.arguments(
                        [(each.record, each.spec.resources.walltime_s) for each in attempts],
                        umask=mounts.umask(),
                        grace_s=options.grace_s,
                        size=size,
                    )
                ],
                "env": [{"name": "DRAWBAR_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": _resources(spec, options),
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "securityContext": {
                    "privileged": False,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": volume_mounts,
            }
        ],
        "volumes": volumes,
    }
    if options.image_pull_policy:
        pod["containers"][0]["imagePullPolicy"] = options.image_pull_policy.value
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    else:
        pod["automountServiceAccountToken"] = False
    if deadline := _deadline(spec.resources, options, min(size, len(attempts))):
        pod["activeDeadlineSeconds"] = deadline
    wishes = {
        "imagePullSecrets": [{"name": name} for name in options.image_pull_secrets],
        "nodeSelector": dict(options.node_selector),
        "tolerations": [dict(each) for each in options.tolerations],
        "affinity": dict(options.affinity),
        "priorityClassName": options.priority_class,
    }
    return pod | {key: value for key, value in wishes.items() if value}


def _deadline(resources: Resources, options: KubernetesOptions, jobs: int) -> int | None:
    """The cluster's own limit, for when the job's script cannot keep the wall time."""
    limits = [] if options.active_deadline_s is None else [options.active_deadline_s]
    if resources.walltime_s is not None:
        limits.append(jobs * (resources.walltime_s + options.grace_s) + _FETCH_S)
    return math.ceil(min(limits)) if limits else None


def _resources(spec: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    wanted, hints = spec.resources, hints_of(spec)
    requests = {"cpu": f"{math.ceil(1000 * wanted.cpus)}m"}
    limits: dict[str, str] = {}
    memory = wanted.memory_mib or (
        mebibytes(options.memory_request, "memory_request") if options.memory_request else None
    )
    limit = wanted.memory_limit_mib or (
        mebibytes(options.memory_limit, "memory_limit") if options.memory_limit else None
    )
    if memory or limit:
        requests["memory"] = f"{min(memory or limit or 0, limit or memory or 0)}Mi"
    if limit:
        limits["memory"] = f"{limit}Mi"
    if bound := hints.cpu_limit or options.cpu_limit:
        most = max(quantity(bound, "cpu_limit"), quantity(wanted.cpus, "cpus"))
        limits["cpu"] = f"{math.ceil(1000 * most)}m"
    if wanted.disk_mib:
        requests["ephemeral-storage"] = limits["ephemeral-storage"] = f"{wanted.disk_mib}Mi"
    if wanted.gpus:
        requests[options.gpu_resource] = limits[options.gpu_resource] = str(wanted.gpus)
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def _mounts(attempts: Sequence[Attempt], options: KubernetesOptions) -> tuple[list[Any], list[Any]]:
    """The pod's volumes, and where its container sees which part of them."""
    seen = _seen(attempts)
    targets = {mount.target for mount in seen}
    seen += [
        Mount(source=volume.path, target=volume.path, read_only=True)
        for volume in options.volumes
        if volume.everywhere and volume.path not in targets
    ]
    names: dict[str, str] = {}
    made = []
    for mount in seen:
        volume = _volume(mount.source, options.volumes)
        if volume is None:
            raise ValueError(f"{mount.source} is on no volume that pods share")
        made.append(_mount(names.setdefault(volume.path, f"volume-{len(names)}"), volume, mount))
    used = [volume for volume in options.volumes if volume.path in names]
    return [{"name": names[volume.path], **volume.manifest} for volume in used], made


def _seen(attempts: Sequence[Attempt]) -> list[Mount]:
    """What the container sees of this machine's files."""
    first = attempts[0]
    seen = [mount for mount in mounts.mounts_of(first) if mount.target != first.record]
    record = first.record if len(attempts) == 1 else str(Path(first.record).parent)
    inside = any(
        mount.source == mount.target and not mount.read_only and _below(record, mount.target)
        for mount in seen
    )
    return seen if inside else [*seen, Mount(source=record, target=record)]


def _mount(name: str, volume: Volume, mount: Mount) -> dict[str, Any]:
    inside = os.path.normpath(Path(volume.sub_path, os.path.relpath(mount.source, volume.path)))
    made: dict[str, Any] = {"name": name, "mountPath": mount.target}
    if inside != ".":
        made["subPath"] = inside
    if mount.read_only or volume.read_only:
        made["readOnly"] = True
    return made


def _volume(path: str, volumes: Sequence[Volume]) -> Volume | None:
    """The volume that a path lies on: the one whose place is the longest."""
    return max(
        (each for each in volumes if _below(path, each.path)), key=lambda each: len(each.path), default=None
    )


def _below(path: str, place: str) -> bool:
    return PurePosixPath(os.path.normpath(path)).is_relative_to(place)


def _escaped(text: str) -> str:
    """A text that Kubernetes, which replaces `$(NAME)` in commands, leaves as it is."""
    return text.replace("$", "$$")
