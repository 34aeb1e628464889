"""Commands that make a run go, or stop: run, resume, cancel, and drive behind the scenes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from drawbar import control, report
from drawbar.cli.common import (
    App,
    F,
    analysis_options,
    container_choice,
    directory_of,
    json_option,
    print_json,
    read_analysis,
)
from drawbar.cli.driving import Wishes
from drawbar.cli.driving import drive as drive_here
from drawbar.cli.failures import explain, say, show_problems
from drawbar.cli.looking import tell_end
from drawbar.creation import create_run, ended, unfinished
from drawbar.errors import DrawbarError, LeaseError
from drawbar.home import Home, RunDirectory
from drawbar.model import RunState
from drawbar.parameters import assignments, parameters_from

_CANCEL_S = 90.0


def _end_options(command: F) -> F:
    """What is to be done when a run has ended."""
    for decorate in reversed(
        [
            click.option(
                "--outputs",
                metavar="DIR",
                type=click.Path(file_okay=False, path_type=Path),
                help="Copy the declared outputs to their relative paths in this directory.",
            ),
            click.option("--test", is_flag=True, help="Evaluate the tests that the analysis declares."),
        ]
    ):
        command = decorate(command)
    return command


def _show_options(command: F) -> F:
    """How a run is driven, and shown meanwhile."""
    for decorate in reversed(
        [
            click.option(
                "--detach",
                is_flag=True,
                help="Drive it in the background, even without this terminal.",
            ),
            json_option,
            click.option("--quiet", "-q", is_flag=True, help="Say only what went wrong."),
        ]
    ):
        command = decorate(command)
    return command


@click.command()
@analysis_options
@click.option(
    "--workspace",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Work in this directory, instead of a new one under DRAWBAR_HOME.",
)
@click.option("--in-place", is_flag=True, help="Work in the directory of the analysis itself.")
@click.option("--name", metavar="N", help="Call the run N.1, N.2, …; an unfinished one is resumed.")
@click.option("--allow-missing-outputs", is_flag=True, help="Finish although declared outputs are missing.")
@_end_options
@_show_options
@click.pass_obj
def run(
    app: App,
    /,
    analysis: str,
    engine: str | None,
    backend: str | None,
    parameters: Sequence[str],
    parameters_file: Path | None,
    options: Sequence[str],
    until: str | None,
    no_container: bool,
    container: str | None,
    workspace: Path | None,
    in_place: bool,
    name: str | None,
    allow_missing_outputs: bool,
    outputs: Path | None,
    test: bool,
    detach: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run an analysis: its steps where they belong, remembered as they end.

    ANALYSIS is a reana.yaml, a directory that holds one (default: this one), or a workflow file, if
    need be with #fragment. Ctrl-C cancels the run; a second one leaves its jobs alive.

    \b
    Examples:
      drawbar run
      drawbar run dimuon/reana.yaml -p bins=30 --outputs results
      drawbar run workflow.cwl#main --parameters input.yaml --backend slurm --detach
    """
    wishes = Wishes(outputs=_absolute(outputs), test=test, as_json=as_json, quiet=quiet)
    asked: dict[str, Any] = {
        "backend": backend,
        "container": container_choice(no_container, container),
        "until": until,
        "parameters_file": _absolute(parameters_file),
        "workspace": _absolute(workspace),
        "in_place": in_place,
        "allow_missing_outputs": allow_missing_outputs,
    }
    found = read_analysis(
        app,
        analysis,
        engine=engine,
        parameters=parameters,
        parameters_file=parameters_file,
        options=options,
    )
    settings = app.settings(directory_of(analysis))
    home = Home(settings.home)
    asked |= {"parameters": parameters_from(parameters), "options": assignments(options, "-o")}
    if backend is not None:
        settings.create_backend(backend, app.plugins)
    directory = unfinished(home, found, name, asked) if name else None
    if directory is not None:
        say(f"run        {directory.id} has not finished; resuming it")
    else:
        if not quiet:
            show_problems(found.warnings)
        directory = create_run(home, found, settings=settings, name=name, **asked)
        wishes = replace(wishes, fresh=not detach)
        if not quiet:
            say(f"run        {directory.id}")
    if not quiet:
        say(f"workspace  {directory.spec().workspace}")
    _go(app, directory, wishes, detach)


@click.command()
@click.argument("run", required=False)
@click.option("--all", "everything", is_flag=True, help="Every interrupted run, each in the background.")
@click.option("--from", "from_step", metavar="STEP", help="Repeat this step, and what needs it, in any case.")
@click.option("--as-was", is_flag=True, help="Ignore what was edited in the analysis meanwhile.")
@click.option("--take-over", is_flag=True, help="Its driver on another host is silent, and gone for good.")
@_end_options
@_show_options
@click.pass_obj
def resume(
    app: App,
    /,
    run: str | None,
    everything: bool,
    from_step: str | None,
    as_was: bool,
    take_over: bool,
    outputs: Path | None,
    test: bool,
    detach: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Go on with a run: jobs that ended are not repeated, unless what they depend on was edited.

    \b
    Examples:
      drawbar resume dimuon
      drawbar resume dimuon --from fit
      drawbar resume --all
    """
    wishes = Wishes(
        from_step=from_step,
        as_was=as_was,
        take_over=take_over,
        outputs=_absolute(outputs),
        test=test,
        as_json=as_json,
        quiet=quiet,
    )
    if not everything:
        if run is None:
            raise click.UsageError("name a RUN, or say --all")
        directory = app.find(run)
        if not quiet:
            say(f"run        {directory.id}")
            say(f"workspace  {directory.spec().workspace}")
        _go(app, directory, wishes, detach)
        return
    if run is not None or outputs or test or from_step:
        raise click.UsageError("--all goes with none of RUN, --from, --outputs and --test")
    status = 0
    for directory in app.home.runs():
        try:
            if directory.interrupted():
                _detach(app, directory, wishes)
        except DrawbarError as error:
            status = max(status, explain(error))
    click.get_current_context().exit(status)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.pass_obj
def cancel(app: App, runs: Sequence[str]) -> None:
    """Stop runs: their jobs are cancelled, and what was finished stays remembered.

    \b
    Example:
      drawbar cancel dimuon
    """
    found = [app.find(run) for run in runs]
    status = 0
    for directory in found:
        status = max(status, _cancel(app, directory))
    click.get_current_context().exit(status)


def _cancel(app: App, directory: RunDirectory) -> int:
    lease = control.request_cancel(directory)
    if lease is None:
        if ended(directory):
            say(f"{directory.id}: has ended before: {report.state_of(directory)}")
            return 0
        say(f"{directory.id}: is interrupted; its jobs are looked for and cancelled")
        status = drive_here(app, directory, Wishes(cancel=True, as_was=True, quiet=True))
        return 0 if directory.state().get("state") == RunState.STOPPED else status
    if not lease.local:
        say(f"{directory.id}: asked {lease} to cancel it")
    if not control.wait(directory, _CANCEL_S):
        raise LeaseError(
            f"{directory.id}: {lease} was asked to cancel it, and has not done so in {_CANCEL_S:.0f} "
            "seconds; it does when it next looks, if it is alive"
        )
    tell_end(directory)
    return 0


@click.command(hidden=True)
@click.argument("run")
@click.option("--ready", metavar="FD", type=int, help="Where to tell that it drives, or why it does not.")
@click.option("--from", "from_step", metavar="STEP", help="See resume.")
@click.option("--as-was", is_flag=True, help="See resume.")
@click.option("--take-over", is_flag=True, help="See resume.")
@click.option("--cancel", is_flag=True, help="Only find its jobs and cancel them.")
@_end_options
@click.pass_obj
def drive(
    app: App,
    run: str,
    ready: int | None,
    from_step: str | None,
    as_was: bool,
    take_over: bool,
    cancel: bool,
    outputs: Path | None,
    test: bool,
) -> None:
    """Drive a run in this process. `run --detach` and the Python API start this."""
    starter = control.Starter(ready)
    wishes = Wishes(
        from_step=from_step,
        as_was=as_was,
        take_over=take_over,
        cancel=cancel,
        outputs=outputs,
        test=test,
    )
    try:
        status = drive_here(app, app.find(run), wishes, started=starter.tell)
    except BaseException as error:
        starter.tell(error)
        raise
    starter.tell()
    click.get_current_context().exit(status)


def _go(app: App, directory: RunDirectory, wishes: Wishes, detach: bool) -> None:
    """Drive a run here, or have it done in the background."""
    status = 0
    if detach:
        _detach(app, directory, wishes)
        if wishes.as_json:
            print_json(report.document(directory))
    else:
        status = drive_here(app, directory, wishes)
    click.get_current_context().exit(status)


def _detach(app: App, directory: RunDirectory, wishes: Wishes) -> None:
    arguments = [
        *(("--from", wishes.from_step) if wishes.from_step else ()),
        *(["--as-was"] if wishes.as_was else []),
        *(["--take-over"] if wishes.take_over else []),
        *(("--outputs", str(wishes.outputs)) if wishes.outputs else ()),
        *(["--test"] if wishes.test else []),
    ]
    control.start_driver(directory, arguments, assignments=app.assignments)
    if not wishes.quiet:
        say(f"{directory.id}: runs in the background; see `drawbar status {directory.id}`")


def _absolute(path: Path | None) -> Path | None:
    return Path(os.path.abspath(path)) if path else None  # noqa: PTH100 (symbolic links are kept)
