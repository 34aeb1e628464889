"""Commands that make room: delete, prune."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from drawbar import control, report
from drawbar.cli.common import App
from drawbar.cli.failures import say
from drawbar.creation import ended
from drawbar.errors import DrawbarError, UsageError
from drawbar.home import RunDirectory
from drawbar.publish import Keep, discard, disk_usage

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_DELETED = ".deleted"
_ABANDONED_S = 86400.0


def _age(context: click.Context, parameter: click.Parameter, text: str) -> float:
    """Seconds that a text such as 30d means."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not found:
        raise click.BadParameter(f"{text!r} is no age; write it as 12h, 30d or 8w", context, parameter)
    return float(found[1]) * _UNITS[found[2]]


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.pass_obj
def delete(app: App, runs: Sequence[str]) -> None:
    """Delete runs: their records, logs and workspaces; never a workspace that you chose yourself.

    A run that is driven, or has jobs that may be alive, is refused: cancel it first.

    \b
    Example:
      drawbar delete dimuon.3
    """
    found = [app.find(run) for run in runs]
    for directory in found:
        _check_idle(directory)
    for directory in found:
        say(f"{directory.id}: deleted, {report.size(_delete(directory))} freed")


@click.command()
@click.option(
    "--older-than",
    "age_s",
    metavar="AGE",
    callback=_age,
    required=True,
    help="Runs that ended longer ago than this: 12h, 30d, 8w.",
)
@click.option(
    "--keep",
    type=click.Choice(["outputs", "none"]),
    help="Keep the records and logs, and of the workspaces only the outputs, or nothing.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.pass_obj
def prune(app: App, age_s: float, keep: str | None, dry_run: bool) -> None:
    """Remove runs that ended long ago, or, with --keep, only files in their workspaces.

    Without --keep, finished, failed and stopped runs go with all their files; with it, the
    workspaces of finished runs are thinned out. Workspaces that you chose yourself are left alone.

    \b
    Examples:
      drawbar prune --older-than 30d --dry-run
      drawbar prune --older-than 7d --keep outputs
    """
    freed = 0
    before = time.time() - age_s
    for directory in list(app.home.runs()):
        finished = directory.state().get("finished")
        if not ended(directory) or finished is None or finished > before:
            continue
        try:
            freed += _thin(directory, Keep(keep), dry_run) if keep else _drop(directory, dry_run)
        except DrawbarError as error:
            say(f"drawbar: warning: {directory.id}: {error}")
    if keep is None:
        for path in _leftovers(app.home.runs_path):
            freed += disk_usage(path) if dry_run else discard(path, Keep.NONE)
    click.echo(f"{report.size(freed)} {'would be freed' if dry_run else 'freed'}")


def _drop(directory: RunDirectory, dry_run: bool) -> int:
    _check_idle(directory)
    count = disk_usage(directory.path)
    say(f"{directory.id}: {report.state_of(directory)}, {report.size(count)}")
    return count if dry_run else _delete(directory)


def _thin(directory: RunDirectory, keep: Keep, dry_run: bool) -> int:
    """Remove from a run's own workspace what is not kept."""
    workspace = Path(directory.spec().workspace)
    if directory.state().get("state") != "finished" or not workspace.is_relative_to(directory.path):
        return 0
    _check_idle(directory)
    outputs = [each["path"] for each in report.outputs(directory)]
    if dry_run:
        kept = sum(disk_usage(workspace / path) for path in outputs) if keep is Keep.OUTPUTS else 0
        count = max(0, disk_usage(workspace) - kept)
    else:
        count = discard(workspace, keep, outputs)
    if count:
        say(f"{directory.id}: {report.size(count)} of its workspace")
    return count


def _check_idle(directory: RunDirectory) -> None:
    """`UsageError` when a driver has the run, or jobs of it may be alive."""
    lease = directory.lease()
    if control.held(lease):
        raise UsageError(f"{directory.id} is driven by {lease}; `drawbar cancel {directory.id}` first")
    alive = sum(not row.state.terminal for row in report.attempts(directory))
    if alive:
        raise UsageError(
            f"{directory.id} is interrupted, and {alive} of its jobs may be alive; "
            f"`drawbar cancel {directory.id}` first"
        )


def _delete(directory: RunDirectory) -> int:
    """Remove a run's directory: from the list at once, even if the rest is not carried through."""
    doomed = directory.path.with_name(f"{directory.id}.{secrets.token_hex(4)}{_DELETED}")
    directory.path.rename(doomed)
    return discard(doomed, Keep.NONE)


def _leftovers(runs: Path) -> Iterator[Path]:
    """Directories of runs whose deletion, or whose making, did not come to its end."""
    for path in sorted(runs.iterdir()) if runs.is_dir() else ():
        abandoned = path.is_dir() and not (path / "run.json").exists() and _age_s(path) > _ABANDONED_S
        if path.name.endswith(_DELETED) or abandoned:
            yield path


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
