"""Commands that make room: delete, prune."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import click

from drawbar import removal, report
from drawbar.cli.common import App
from drawbar.cli.failures import say
from drawbar.creation import ended
from drawbar.errors import DrawbarError
from drawbar.home import RunDirectory
from drawbar.model import Keep
from drawbar.publish import discard, disk_usage

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


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
        removal.check_idle(directory)
    for directory in found:
        say(f"{directory.id}: deleted, {report.size(removal.delete(directory))} freed")


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
            count = (
                removal.thin(directory, Keep(keep), dry_run=dry_run) if keep else _drop(directory, dry_run)
            )
        except DrawbarError as error:
            say(f"drawbar: warning: {error}")
            continue
        if count:
            what = " of its workspace" if keep else ""
            say(f"{directory.id}: {report.size(count)}{what}")
        freed += count
    if keep is None:
        for path in removal.leftovers(app.home):
            freed += disk_usage(path) if dry_run else discard(path, Keep.NONE)
    click.echo(f"{report.size(freed)} {'would be freed' if dry_run else 'freed'}")


def _drop(directory: RunDirectory, dry_run: bool) -> int:
    removal.check_idle(directory)
    return disk_usage(directory.path) if dry_run else removal.delete(directory)
