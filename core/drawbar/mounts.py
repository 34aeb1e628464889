"""What a job in an image sees of this machine's files, what it may not, and the permissions of its own."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path, PurePosixPath

from drawbar.backend import Attempt
from drawbar.model import Mount, WorkspaceNeed

_CLOSED = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr")
_OPEN_BELOW = ("/usr/local", "/usr/src", "/usr/home")
_FULL = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib")  # noqa: S108
"""Directories that an image has of its own: a workspace can lie below the full ones and the open ones."""


def mounts_of(attempt: Attempt) -> tuple[Mount, ...]:
    """One mount for each place, the specification's last word on it; outer places before inner ones."""
    spec, mounts = attempt.spec, {}
    places = list(spec.mounts)
    if spec.workspace is WorkspaceNeed.DECLARED and spec.collection_root:
        places.insert(0, Mount(source=spec.collection_root, target=spec.collection_root))
    if spec.workspace is not WorkspaceNeed.NONE:
        read_only = spec.workspace is WorkspaceNeed.DECLARED
        places.insert(0, Mount(source=attempt.workspace, target=attempt.workspace, read_only=read_only))
    places.append(Mount(source=attempt.record, target=attempt.record))
    for mount in places:
        mounts[os.path.normpath(mount.target)] = mount
    return tuple(mounts[target] for target in sorted(mounts, key=lambda target: PurePosixPath(target).parts))


def refusal(attempt: Attempt, shared: tuple[str, ...]) -> str | None:
    """Why an attempt may not have the mounts and files that it names, or None.

    Sources lie in the run's own directories or, read-only, in `shared` ones of the site.
    """
    spec = attempt.spec
    own = [Path(attempt.workspace).resolve(), run_directory(attempt)]
    places = [mount.target for mount in mounts_of(attempt)]
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
                "a site may share it with `shared` in the settings"
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


def _forbidden(target: str) -> str | None:
    path = os.path.normpath(target)
    if path == "/" or any(PurePosixPath(path).is_relative_to(place) for place in ("/proc", "/sys", "/dev")):
        return f"wants to mount something at {target}, which belongs to the container itself"
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
