"""The container of a job: what the engine is asked to make, and what it may not be asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from drawbar.backend import Attempt
from drawbar.model import JobSpec, WorkspaceNeed

from drawbar_docker import records
from drawbar_docker.engine import Facts

TAG = "drawbar.tag"
RUN = "drawbar.run"
JOB = "drawbar.job"
RECORD = "drawbar.record"
"""Labels of every container: its attempt's tag and directory, its run, and its job's name."""

SHELL = "/bin/sh"
_CLAIM = 'umask "$2"; set -C; : >"$1" || exit 125; set +C; i=$3 o=$4 e=$5; shift 5; exec "$@" <"$i" >"$o" '
STREAMS = _CLAIM + '2>"$e"'
SAME_STREAM = _CLAIM + "2>&1"
"""What the shell does: it takes the attempt, once and for all, and connects the job's streams to its
files, which are so written to without drawbar, byte for byte."""

_CLOSED = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
_OPEN_BELOW = ("/usr/local", "/usr/src", "/usr/home")
_FULL = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib")  # noqa: S108
"""Directories that an image has of its own: a workspace can lie below the full ones and the open ones."""


def stdout_of(attempt: Attempt) -> str:
    """Where the job's standard output goes."""
    return attempt.spec.stdout or f"{attempt.record}/stdout"


def stderr_of(attempt: Attempt) -> str:
    """Where the job's standard error goes."""
    return attempt.spec.stderr or f"{attempt.record}/stderr"


def configuration(
    attempt: Attempt,
    *,
    image: str,
    image_environment: Mapping[str, str],
    facts: Facts,
    network: str | None,
    limit_cpus: bool,
) -> dict[str, Any]:
    """The body of the engine's `create` for an attempt; `image` is an id, `network` where its jobs are."""
    spec = attempt.spec
    environment = {**({} if "HOME" in image_environment else {"HOME": "/tmp"}), **spec.environment}  # noqa: S108
    host: dict[str, Any] = {
        "Mounts": list(_mounts(attempt)),
        "Init": True,  # else the job were process 1, which signals of its own do not end
        "NetworkMode": (network or "default") if spec.network else "none",
        "CpuShares": max(2, min(262144, round(1024 * spec.resources.cpus))),
        # What the job itself prints is in its files: this holds only why it could not be started.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k"}},
        "GroupAdd": [] if facts.rootless else [str(group) for group in os.getgroups()],
    }
    if limit_cpus:
        host["NanoCpus"] = round(1e9 * spec.resources.cpus)
    if limit := spec.resources.memory_limit_mib:
        host["Memory"] = host["MemorySwap"] = limit << 20
    if spec.resources.gpus:
        host["DeviceRequests"] = [{"Count": spec.resources.gpus, "Capabilities": [["gpu"]]}]
    if facts.remapped:
        host["UsernsMode"] = "host"
    if facts.labelled:
        host["SecurityOpt"] = ["label=disable"]
    return {
        "Image": image,
        "Entrypoint": [SHELL, "-c", *_streams(attempt)],
        "Cmd": list(spec.argv),
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "WorkingDir": spec.directory,
        "User": "0:0" if facts.rootless else f"{os.getuid()}:{os.getgid()}",
        "Labels": {TAG: attempt.tag, RUN: attempt.run, JOB: spec.name, RECORD: attempt.record},
        "HostConfig": host,
        "StopSignal": "SIGTERM",
    }


def refusal(attempt: Attempt, shared: tuple[str, ...]) -> str | None:
    """Why an attempt may not have the mounts and files that it names, or None.

    Sources lie in the run's own directories or, read-only, in `shared` ones of the site.
    """
    spec = attempt.spec
    own = [Path(attempt.workspace).resolve(), run_directory(attempt)]
    places = [mount["Target"] for mount in _mounts(attempt)]
    if problem := shadowed(attempt.workspace):
        return problem
    for mount in spec.mounts:
        if problem := _forbidden(mount.target):
            return problem
        source = Path(mount.source).resolve()
        if any(source.is_relative_to(place) for place in own):
            continue
        if not any(source.is_relative_to(place) for place in shared):
            return (
                f"wants to see {mount.source}, which is outside of the run's directories; "
                "a site may share it with `shared` in the backend's settings"
            )
        if not mount.read_only:
            return f"wants to write in {mount.source}, which the site shares for reading only"
    for path in (spec.stdin, spec.stdout, spec.stderr):
        if path is not None and not any(PurePosixPath(path).is_relative_to(place) for place in places):
            return f"{path} is not among the directories that the container sees"
    return None


def run_directory(attempt: Attempt) -> Path:
    """The run's directory, in which attempts lie as `attempts/ATTEMPT` and jobs have theirs."""
    return Path(attempt.record).parents[1].resolve()


def shadowed(workspace: str) -> str | None:
    """Why no container can have its workspace there, or None."""
    path = PurePosixPath(os.path.normpath(workspace))
    closed = any(path.is_relative_to(place) for place in _CLOSED)
    opened = any(path.is_relative_to(place) and path != PurePosixPath(place) for place in _OPEN_BELOW)
    if str(path) in _FULL or (closed and not opened):
        return (
            f"the workspace {workspace} would hide what images have in that place, since jobs see it at "
            "the same path; choose another with --workspace"
        )
    return None


def cannot_run(spec: JobSpec) -> str | None:
    """Why no container can run a job like this, or None."""
    if spec.image is None:
        return "it has no image to run in"
    return None


@cache
def umask() -> int:
    """The permissions that this process withholds from its files, and so from those of its jobs."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o022)  # the only other way to learn it
    os.umask(mask)
    return mask


def _forbidden(target: str) -> str | None:
    path = os.path.normpath(target)
    if path == "/" or any(PurePosixPath(path).is_relative_to(place) for place in ("/proc", "/sys", "/dev")):
        return f"wants to mount something at {target}, which belongs to the container itself"
    return None


def _mounts(attempt: Attempt) -> Iterator[dict[str, Any]]:
    """One mount for each place, the specification's last word on it."""
    spec, mounts = attempt.spec, {}
    if spec.workspace is not WorkspaceNeed.NONE:
        mounts[attempt.workspace] = (attempt.workspace, spec.workspace is WorkspaceNeed.DECLARED)
    if spec.workspace is WorkspaceNeed.DECLARED and spec.collection_root:
        mounts[spec.collection_root] = (spec.collection_root, False)
    for mount in spec.mounts:
        mounts[mount.target] = (mount.source, mount.read_only)
    mounts[attempt.record] = (attempt.record, False)
    for target, (source, read_only) in mounts.items():
        yield {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _streams(attempt: Attempt) -> list[str]:
    out, err = stdout_of(attempt), stderr_of(attempt)
    script = SAME_STREAM if out == err else STREAMS
    return [
        script,
        "drawbar",
        records.start_of(attempt.record),
        f"{umask():04o}",
        attempt.spec.stdin or "/dev/null",
        out,
        err,
    ]
