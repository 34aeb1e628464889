"""Whether a cluster can be used: it answers, lets us, has room, and its pods see our files."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawbar.backend import Accepted, Attempt, JobStatus
from drawbar.errors import BackendError, DrawbarError, Problem, Severity
from drawbar.model import JobResult, JobSpec
from drawbar.settings import load_settings

from drawbar_kubernetes import manifest
from drawbar_kubernetes.api import Api, ApiError
from drawbar_kubernetes.options import KubernetesOptions, quantity

if TYPE_CHECKING:
    from drawbar_kubernetes.backend import KubernetesBackend

_RIGHTS = (
    *(("batch", "jobs", verb) for verb in ("create", "get", "list", "watch", "deletecollection")),
    *(("", "pods", verb) for verb in ("get", "list", "watch")),
)

_OF_QUOTA = re.compile(r"(exceeded|failed) quota")
_QUOTA = (
    "one job needs more than the namespace's quota leaves: have its administrator raise it, wait for others, "
    "or have jobs ask for less, or for what the quota wants named, with `memory_request`, `memory_limit` and "
    "`cpu_limit` in [backends.kubernetes], or a step's `kubernetes_cpu_request` and the like"
)


def problems(api: Api, options: KubernetesOptions, probe: KubernetesBackend) -> Sequence[Problem]:
    """What is wrong, with what to do about it. Raises `BackendError` when no cluster answers.

    `probe` is a backend of its own, with which a small job is run; nothing of it stays.
    """
    api.version()
    missing = [
        f"{verb} {resource}" for group, resource, verb in _RIGHTS if not api.may(group, resource, verb)
    ]
    if missing:
        return [
            Problem(
                message=f"kubernetes: not allowed in the namespace {api.namespace}: {', '.join(missing)}",
                hint="give the account the Role in docs/reference/kubernetes-role.yaml",
            )
        ]
    found = list(_used_up(api))
    if not options.volumes:
        return [
            *found,
            Problem(
                message="kubernetes: no volumes are named, so that pods cannot see a workspace",
                hint="say in [[backends.kubernetes.volumes]] what this machine and pods share, and where",
            ),
        ]
    return [*found, *_round_trip(options, probe)]


def _access(home: Path, user: int, group: int) -> str:
    """What to do for a job that could not write."""
    return (
        f"is {home} the same file system for pods? their user {user} of group {group} has to be able to "
        "write there: give them that, or name who may as `user` and `group` in [backends.kubernetes]"
    )


def _used_up(api: Api) -> Iterator[Problem]:
    """Quotas of the namespace of which nothing is left."""
    try:
        quotas = api.quotas()
    except ApiError:
        return  # they need not be ours to read
    for quota in quotas:
        status: Mapping[str, Any] = quota.get("status") or {}
        used = status.get("used") or {}
        for resource, hard in (status.get("hard") or {}).items():
            try:
                full = quantity(used.get(resource, "0"), resource) >= quantity(hard, resource)
            except ValueError:
                full = str(hard) == "0"
            if full:
                yield Problem(
                    message=f"kubernetes: the quota {quota['metadata']['name']} allows no more {resource} "
                    f"({used.get(resource, '0')} of {hard} are used)",
                    hint="jobs wait until others end",
                    severity=Severity.WARNING,
                )


class _Listener:
    """Hears of one job."""

    def __init__(self) -> None:
        self.result: JobResult | None = None
        self.told = ""
        self.ended = threading.Event()

    def status(self, statuses: Sequence[JobStatus]) -> None:
        for status in statuses:
            said = status.message.startswith(status.native_state)
            words = (status.message,) if said else (status.native_state, status.message)
            self.told = ": ".join(filter(None, words)) or self.told
            if status.result is not None:
                self.result = status.result
                self.ended.set()

    def trouble(self, message: str) -> None:
        self.told = message or self.told


def _round_trip(options: KubernetesOptions, probe: KubernetesBackend) -> Iterator[Problem]:
    """A pod copies a file where runs are kept, or else in the first volume."""
    try:
        home = load_settings(start=Path.cwd(), environ=os.environ).home
        shared = any(home.is_relative_to(volume.path) and not volume.read_only for volume in options.volumes)
        if not shared:
            yield Problem(
                message=f"kubernetes: drawbar's home {home} is on none of the volumes that pods share",
                hint="set `home` in drawbar.toml, or give each run a --workspace, and its home, on one",
            )
            return
        while not home.exists():
            home = home.parent
        directory = home / f".drawbar-check-{secrets.token_hex(8)}"
        directory.mkdir()
    except (OSError, DrawbarError) as error:
        yield Problem(message=f"kubernetes: no file can be written for a check: {error}")
        return
    listener = _Listener()
    try:
        probe.start(listener)
        try:
            yield from _run(options, probe, listener, directory)
        finally:
            probe.close()
    except BackendError as error:
        yield Problem(message=f"kubernetes: {error}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _run(
    options: KubernetesOptions, probe: KubernetesBackend, listener: _Listener, directory: Path
) -> Iterator[Problem]:
    word = secrets.token_hex(8)
    (directory / "asked").write_text(word)
    user, group = options.user, options.group
    if user is not None or group is not None:
        directory.chmod(0o777)  # the job's user has no other way in
    spec = JobSpec(
        identity="check",
        name="check",
        step="check",
        argv=("cp", f"{directory}/asked", f"{directory}/answered"),
        directory=str(directory),
        canonical=None,
        image=options.check_image,
    )
    tag, record = f"db-{secrets.token_hex(16)}", f"{directory}/attempts/1"
    attempt = Attempt(tag=tag, run="check", number=1, record=record, workspace=str(directory), spec=spec)
    (answer,) = probe.submit([attempt])
    if not isinstance(answer, Accepted):
        yield Problem(message=f"kubernetes: a job was refused: {answer.message}")
        return
    ended = listener.ended.wait(options.check_s)
    told = listener.told or "nothing is known of it"
    if not ended:
        probe.cancel([attempt])
        listener.ended.wait(options.check_s)
    probe.forget([attempt])
    if not ended:
        yield Problem(
            message=f"kubernetes: a pod did not end in {options.check_s:g} s: {told}",
            hint=_QUOTA
            if _OF_QUOTA.search(told)
            else "see kubectl describe; check_image names another image, check_s gives more time",
        )
    elif listener.result is not None and not listener.result.ok:
        result = listener.result
        yield Problem(
            message=f"kubernetes: a job failed: {result.reason}: {result.message or result.exit_code}",
            hint=_access(directory.parent, *manifest.user_of(spec, options)),
        )
    elif not (directory / "answered").exists() or (directory / "answered").read_text() != word:
        yield Problem(message=f"kubernetes: what a pod wrote in {directory.parent} is not what is read here")
    if ignored := probe.ignored:
        yield Problem(
            message=f"kubernetes: this cluster is too old for, and leaves out, {', '.join(ignored)}",
            severity=Severity.WARNING,
        )
