"""The site's part of the pod template: what it may not say, and how it is merged into a job's pod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JOB = "job"
"""The name of the container in which the job runs."""

_OURS = {"restartPolicy", "activeDeadlineSeconds", "terminationGracePeriodSeconds", "ephemeralContainers"}
_SHARED = {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"}
_OUR_CONTAINER = {
    "image",
    "command",
    "args",
    "workingDir",
    "lifecycle",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
}
_BY_NAME = {"containers", "initContainers", "volumes", "env", "imagePullSecrets"}
_BY_PATH = {"volumeMounts"}
_ADDED = {"tolerations"}


def check(part: Mapping[str, Any]) -> None:
    """Raise ValueError when a template says what would break the promise of `drawbar` about jobs.

    No container may be privileged or gain capabilities, see the node's files, processes or network;
    and how the job's own container is started and ended is not the template's to say.
    """
    _only(part, {"metadata", "spec"}, "pod_template")
    _only(_table(part, "metadata", "pod_template"), {"labels", "annotations"}, "pod_template.metadata")
    spec = _table(part, "spec", "pod_template")
    for key in sorted(_OURS & spec.keys()):
        raise ValueError(f"pod_template.spec.{key} is decided by drawbar")
    for key in sorted(_SHARED & spec.keys()):
        if spec[key]:
            raise ValueError(f"pod_template.spec.{key} would break the separation of jobs from the node")
    for volume in _tables(spec, "volumes", "pod_template.spec"):
        if "hostPath" in volume:
            raise ValueError(
                "pod_template.spec.volumes: a path of the nodes is named in `volumes` of the backend"
            )
    for kind in ("containers", "initContainers"):
        for container in _tables(spec, kind, "pod_template.spec"):
            where = f"pod_template.spec.{kind}.{container.get('name', '?')}"
            if not isinstance(container.get("name"), str):
                raise ValueError(f"{where} needs a name; the job's own is called {JOB!r}")
            _check_container(container, where, ours=kind == "containers" and container["name"] == JOB)
    _check_security(_table(spec, "securityContext", "pod_template.spec"), "pod_template.spec")


def merge(base: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """The base with what the part adds or changes.

    Tables are merged, lists of named things by name, volume mounts by path, tolerations added;
    anything else is replaced.
    """
    merged = dict(base)
    for key, value in part.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(before, value)
        elif isinstance(before, list) and isinstance(value, list) and key in _BY_NAME | _BY_PATH:
            merged[key] = _merge_by("mountPath" if key in _BY_PATH else "name", before, value)
        elif isinstance(before, list) and isinstance(value, list) and key in _ADDED:
            merged[key] = [*before, *value]
        else:
            merged[key] = value
    return merged


def _merge_by(key: str, base: list[Any], part: list[Any]) -> list[Any]:
    merged = {each[key]: each for each in base}
    for each in part:
        name = each.get(key)
        merged[name] = merge(merged[name], each) if name in merged else each
    return list(merged.values())


def _check_container(container: Mapping[str, Any], where: str, *, ours: bool) -> None:
    for key in sorted(_OUR_CONTAINER & container.keys()) if ours else ():
        raise ValueError(f"{where}.{key} is decided by the job")
    context = _table(container, "securityContext", where)
    if context.get("privileged") or context.get("allowPrivilegeEscalation"):
        raise ValueError(f"{where} may not be privileged")
    if _table(context, "capabilities", where).get("add"):
        raise ValueError(f"{where} may not gain capabilities")
    if context.get("procMount") not in (None, "Default"):
        raise ValueError(f"{where} may not change procMount")
    if any(port.get("hostPort") for port in _tables(container, "ports", where)):
        raise ValueError(f"{where} may not take ports of the node")
    _check_security(context, where)


def _check_security(context: Mapping[str, Any], where: str) -> None:
    for profile in ("seccompProfile", "appArmorProfile"):
        if _table(context, profile, where).get("type") == "Unconfined":
            raise ValueError(f"{where} may not be without its {profile}")
    if context.get("sysctls"):
        raise ValueError(f"{where} may not set sysctls")


def _only(part: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in sorted(part.keys() - known):
        raise ValueError(f"{where}: unknown key {key!r}; there may be {', '.join(sorted(known))}")


def _table(part: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = part.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}.{key} must be a table")
    return value


def _tables(part: Mapping[str, Any], key: str, where: str) -> list[Mapping[str, Any]]:
    value = part.get(key) or []
    if not isinstance(value, list | tuple) or not all(isinstance(each, Mapping) for each in value):
        raise ValueError(f"{where}.{key} must be a list of tables")
    return list(value)
