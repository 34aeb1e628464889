"""Makes room: removes runs, or what of their workspaces is not kept. Never a workspace that is the user's."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from drawbar import report
from drawbar.control import held
from drawbar.errors import InfrastructureError, UsageError
from drawbar.home import Home, RunDirectory
from drawbar.model import Keep, RunState
from drawbar.publish import discard, disk_usage

_DELETED = ".deleted"
_ABANDONED_S = 86400.0
"""Age in seconds of a directory without a run in it that nobody can be making any more."""


def check_idle(directory: RunDirectory) -> None:
    """`UsageError` when a driver has the run, or jobs of it may be alive."""
    lease = directory.lease()
    if held(lease):
        raise UsageError(f"{directory.id} is driven by {lease}; `drawbar cancel {directory.id}` first")
    alive = report.unended(directory)
    if alive:
        raise UsageError(
            f"{directory.id} is interrupted, and {alive} of its jobs may be alive; "
            f"`drawbar cancel {directory.id}` first"
        )


def delete(directory: RunDirectory) -> int:
    """Remove an idle run's directory; returns the bytes that this freed.

    It is off the list at once; if the rest is not carried through, it is among the `leftovers`.
    """
    check_idle(directory)
    doomed = directory.path.with_name(f"{directory.id}.{secrets.token_hex(4)}{_DELETED}")
    try:
        directory.path.rename(doomed)
    except OSError as error:
        raise InfrastructureError(f"cannot delete {directory.id}: {error}") from error
    return discard(doomed, Keep.NONE)


def thin(directory: RunDirectory, keep: Keep, *, dry_run: bool = False) -> int:
    """Remove what is not kept from the own workspace of a finished, idle run; returns the bytes freed."""
    workspace = Path(directory.spec().workspace)
    if directory.state().get("state") != RunState.FINISHED or not workspace.is_relative_to(directory.path):
        return 0
    check_idle(directory)
    outputs = [each["path"] for each in report.outputs(directory)]
    if not dry_run:
        return discard(workspace, keep, outputs)
    kept = sum(disk_usage(workspace / path) for path in outputs) if keep is Keep.OUTPUTS else 0
    return max(0, disk_usage(workspace) - kept)


def leftovers(home: Home) -> Iterator[Path]:
    """Directories of runs whose deletion, or whose making, did not come to its end."""
    for path in sorted(home.runs_path.iterdir()) if home.runs_path.is_dir() else ():
        abandoned = (
            path.is_dir()
            and not (path / "run.json").exists()
            and time.time() - path.stat().st_mtime > _ABANDONED_S
        )
        if path.name.endswith(_DELETED) or abandoned:
            yield path
