"""Commands that look at runs: list, status, wait, outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from drawbar import report
from drawbar.cli.common import App, json_option, print_json, print_table
from drawbar.cli.failures import say
from drawbar.errors import DrawbarError, RunFailed
from drawbar.home import RunDirectory
from drawbar.model import RunState

_MOST_JOBS = 40
STATUS_OF_STATE = {RunState.FINISHED: 0, RunState.FAILED: 1}
"""Exit statuses of commands that end with a run; 130 for any other state."""


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@json_option
@click.pass_obj
def list_runs(app: App, names: Sequence[str], as_json: bool) -> None:
    """List the runs, those of the names if any are given.

    \b
    Example:
      drawbar list dimuon
    """
    from drawbar.publish import disk_usage

    rows = []
    for run in app.home.runs():
        if names and run.id not in names and run.id.rpartition(".")[0] not in names:
            continue
        try:
            rows.append({**report.summary(run), "size": _size(run, disk_usage)})
        except DrawbarError as error:
            say(f"drawbar: warning: {run.id}: {error}")
    rows.sort(key=lambda row: row["created"])
    if as_json:
        print_json(rows)
        return
    print_table(
        ("RUN", "STATE", "ENGINE", "BACKEND", "STARTED", "TIME", "SIZE"),
        [
            (
                *(row["run"], row["state"], row["engine"], row["backend"] or ""),
                *(report.moment(row["started"]), report.duration(report.elapsed(row))),
                report.size(row["size"]),
            )
            for row in rows
        ],
        empty="There are no runs yet; `drawbar run` makes one.",
    )


def _size(run: RunDirectory, disk_usage: Any) -> int:
    """Bytes on disk of a run's directory, without a workspace that is the user's own."""
    return int(disk_usage(run.path))


@click.command()
@click.argument("run")
@json_option
@click.pass_obj
def status(app: App, run: str, as_json: bool) -> None:
    """Show where a run is, job by job, and what it waits for.

    \b
    Examples:
      drawbar status dimuon
      drawbar status dimuon.3 --json
    """
    directory = app.find(run)
    document = report.document(directory)
    if as_json:
        print_json(document)
        return
    for line in _status_lines(document):
        click.echo(report.legible(line))
    jobs = document["jobs"]
    if not jobs:
        return
    click.echo()
    if len(jobs) <= _MOST_JOBS:
        _job_table(jobs)
    else:
        _step_table(jobs)
        wrong = [job for job in jobs if job["state"] == "failed"]
        if wrong:
            click.echo()
            _job_table(wrong[:_MOST_JOBS])


def _status_lines(document: dict[str, Any]) -> Iterator[str]:
    message = f": {document['message']}" if document["message"] else ""
    where = f" on {document['backend']}" if document["backend"] else ""
    yield f"{document['run']}: {document['state']}{message}"
    yield f"  engine     {document['engine']}{where}"
    yield f"  workspace  {document['workspace']}"
    if document["started"]:
        spent = report.duration(report.elapsed(document))
        yield f"  started    {report.moment(document['started'])}{f', took {spent}' if spent else ''}"
    for trouble in document["trouble"]:
        yield f"  trouble    {trouble}"
    counts = Counter(job["state"] for job in document["jobs"])
    if counts:
        parts = ", ".join(f"{count} {state}" for state, count in counts.items())
        yield f"  jobs       {len(document['jobs'])}: {parts}"
    for output in document["outputs"]:
        yield f"  output     {output['path']} ({report.size(output['size'])})"
    if "resume" in document:
        yield f"  go on with `{document['resume']}`"


def _job_table(jobs: Sequence[dict[str, Any]]) -> None:
    print_table(
        ("STEP", "JOB", "STATE", "BACKEND", "ID", "TIME", "WHY"),
        [
            (
                *(job["step"], job["name"], job["state"], job["backend"], job["native_id"] or ""),
                *(report.duration(report.elapsed(job)), _why(job)),
            )
            for job in jobs
        ],
    )


def _step_table(jobs: Sequence[dict[str, Any]]) -> None:
    steps: dict[str, Counter[str]] = {}
    for job in jobs:
        steps.setdefault(job["step"], Counter())[job["state"]] += 1
    rows = [
        (step, sum(counts.values()), ", ".join(f"{count} {state}" for state, count in counts.items()))
        for step, counts in steps.items()
    ]
    print_table(("STEP", "JOBS", "STATES"), rows)


def _why(job: dict[str, Any]) -> str:
    if job["reason"]:
        code = f" {job['exit_code']}" if job["reason"] == "exit-code" else ""
        return f"{job['reason']}{code}{': ' + job['message'] if job['message'] else ''}"
    return "from the cache" if job["cached"] else job["waiting"] or ""


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option("--timeout", metavar="SECONDS", type=float, help="Give up after this time, with status 3.")
@click.pass_obj
def wait(app: App, runs: Sequence[str], timeout: float | None) -> None:
    """Wait until runs have ended, or are interrupted; the exit status is that of the worst of them.

    \b
    Example:
      drawbar wait dimuon && drawbar outputs dimuon
    """
    import time

    from drawbar import control

    began = time.monotonic()
    worst = 0
    for directory in [app.find(run) for run in runs]:
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        if not control.wait(directory, left):
            say(f"{directory.id}: {report.state_of(directory)} after {timeout:g} seconds")
            worst = max(worst, 3)
            continue
        worst = max(worst, tell_end(directory))
    click.get_current_context().exit(worst)


def tell_end(directory: RunDirectory) -> int:
    """Say how a run ended; returns the exit status for that."""
    state, message = report.state_of(directory), directory.state().get("message")
    if state == report.INTERRUPTED:
        message = f"go on with `{report.resume_command(directory)}`"
    say(f"{directory.id}: {state}{f': {message}' if message else ''}")
    return STATUS_OF_STATE.get(RunState(state), 130) if state in set(RunState) else 130


@click.command()
@click.argument("run")
@click.option(
    "--outputs",
    "destination",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Copy the outputs to their relative paths in this directory.",
)
@json_option
@click.pass_obj
def outputs(app: App, run: str, destination: Path | None, as_json: bool) -> None:
    """List what a finished run yielded, with sizes and SHA-256 digests, or copy it out.

    \b
    Examples:
      drawbar outputs dimuon
      drawbar outputs dimuon --outputs results
    """
    directory = app.find(run)
    found = finished_outputs(directory)
    if destination is not None:
        copy_outputs(directory, destination)
    if as_json:
        print_json(found)
    elif destination is None:
        rows = [(each["path"], report.size(each["size"]), each["sha256"]) for each in found]
        print_table(("PATH", "SIZE", "SHA-256"), rows, empty="The analysis declares no outputs.")


def finished_outputs(directory: RunDirectory) -> list[dict[str, Any]]:
    """The outputs of a run; `RunFailed` when it has not finished."""
    if directory.state().get("state") != RunState.FINISHED:
        raise RunFailed(
            f"{directory.id} is {report.state_of(directory)} and has no outputs; "
            f"what it made so far is in {directory.spec().workspace}"
        )
    return report.outputs(directory)


def copy_outputs(directory: RunDirectory, destination: Path) -> None:
    """Copy the outputs of a finished run out, and say where they are."""
    from drawbar.publish import publish

    paths = [each["path"] for each in finished_outputs(directory)]
    for place in publish(paths, Path(directory.spec().workspace), destination):
        say(f"  {place}")
