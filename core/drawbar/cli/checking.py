"""Commands that look at an analysis before it runs: validate, plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from drawbar import report
from drawbar.analysis import Analysis
from drawbar.cli.common import (
    App,
    analysis_options,
    container_choice,
    directory_of,
    json_option,
    print_json,
    print_table,
    read_analysis,
)
from drawbar.cli.failures import show_problems
from drawbar.codec import encode
from drawbar.creation import analysis_of
from drawbar.diagram import mermaid
from drawbar.engine import Placement, WorkflowInfo
from drawbar.enginehost import inspect
from drawbar.errors import Problem, Severity, SpecError
from drawbar.planning import Plan, StepPlan, examine
from drawbar.why import newest_run, reasons

_MOST_SHOWN = 3


@click.command()
@analysis_options
@click.option("--no-exec", is_flag=True, help="Execute nothing of the specification; says what it left out.")
@json_option
@click.pass_obj
def validate(app: App, /, analysis: str, no_exec: bool, as_json: bool, **given: Any) -> None:
    """Find every problem of an analysis at once, with file, line and remedy.

    ANALYSIS is a reana.yaml, a directory that holds one (default: this one), or a workflow file.

    \b
    Examples:
      drawbar validate
      drawbar validate workflow/main.cwl --backend slurm
      drawbar validate somebody/Snakefile --no-exec
    """
    found, plan, problems = examine_given(app, analysis, allow_execution=not no_exec, **given)
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    steps = len(plan.steps) if plan and plan.info else None
    if as_json:
        print_json(
            {
                "valid": not errors,
                "engine": found.engine if found else None,
                "inspected": plan is not None and plan.info is not None,
                "steps": steps,
                "problems": [_document(problem) for problem in problems],
            }
        )
    else:
        show_problems(problems)
        if not errors and found is not None:
            what = "" if steps is None else f", {steps} step{'s' if steps != 1 else ''}"
            click.echo(f"{found.document}: valid ({found.engine}{what})")
    click.get_current_context().exit(2 if errors else 0)


@click.command()
@analysis_options
@click.option("--why", metavar="STEP", help="Which part of a step's key differs from its last run, and how.")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print the steps as a Mermaid flow chart.")
@json_option
@click.pass_obj
def plan(app: App, /, analysis: str, why: str | None, as_mermaid: bool, as_json: bool, **given: Any) -> None:
    """Show the steps of an analysis, and for each where it will run, or why it cannot.

    ANALYSIS is a reana.yaml, a directory that holds one (default: this one), or a workflow file.

    \b
    Examples:
      drawbar plan --backend slurm
      drawbar plan --why fit
      drawbar plan --mermaid > steps.mmd
    """
    found, planned, problems = examine_given(app, analysis, **given)
    if found is None or planned is None or planned.info is None:
        raise SpecError(problems)
    if why is not None:
        _explain(app, found, planned.info, why, as_json)
        return
    if as_mermaid:
        click.echo(mermaid(planned.info), nl=False)
        show_problems(problems)
    elif as_json:
        print_json(
            {
                "engine": found.engine,
                "steps": [_step(step) for step in planned.steps],
                "problems": [_document(problem) for problem in problems],
            }
        )
    else:
        print_table(
            ("STEP", "BACKEND", "IMAGE", "INPUTS", "JOBS"),
            [_row(step) for step in planned.steps],
            empty="The engine knows the steps only while it runs them.",
        )
        show_problems(problems)
    click.get_current_context().exit(0 if planned.valid else 2)


def examine_given(
    app: App,
    analysis: str,
    *,
    engine: str | None,
    backend: str | None,
    parameters: Sequence[str],
    parameters_file: Path | None,
    options: Sequence[str],
    until: str | None,
    no_container: bool,
    container: str | None,
    allow_execution: bool = True,
) -> tuple[Analysis | None, Plan | None, list[Problem]]:
    """The analysis and its plan, as far as they can be had, and all problems."""
    containers = container_choice(no_container, container)
    problems: list[Problem] = []
    settings = None
    try:
        settings = app.settings(directory_of(analysis))
    except SpecError as error:
        problems += error.problems
    try:
        found = read_analysis(
            app,
            analysis,
            engine=engine,
            parameters=parameters,
            parameters_file=parameters_file,
            options=options,
        )
    except SpecError as error:
        return None, None, [*problems, *error.problems]
    if settings is None:
        return found, None, problems
    made = examine(
        found,
        settings=settings,
        plugins=app.plugins,
        backend=backend,
        container=containers,
        until=until,
        allow_execution=allow_execution,
    )
    return found, made, list(made.problems)


def _row(step: StepPlan) -> tuple[Any, ...]:
    jobs = "?" if step.info.jobs is None else step.info.jobs
    inputs = _shown(step.info.inputs)
    if isinstance(step.place, SpecError):  # the problem itself follows the table
        return step.info.name, "none", step.info.image or "", inputs, jobs
    if step.place is None:
        return step.info.name, "none", "makes no jobs", inputs, jobs
    image = step.place.image or step.info.image
    if image and not step.place.container:
        image = f"ignored: {image}"
    return step.info.name, step.place.backend, image or "", inputs, jobs


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SHOWN
    return ", ".join(names[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _step(step: StepPlan) -> dict[str, Any]:
    placement = step.place if isinstance(step.place, Placement) else None
    why_not = [str(problem) for problem in step.place.problems] if isinstance(step.place, SpecError) else []
    return {
        "step": step.info.name,
        "backend": placement.backend if placement else None,
        "image": (placement.image if placement else None) or step.info.image,
        "container": placement.container if placement else None,
        "why_not": "; ".join(why_not) or None,
        "inputs": list(step.info.inputs),
        "outputs": list(step.info.outputs),
        "depends_on": list(step.info.depends_on),
        "commands": list(step.info.commands),
        "jobs": step.info.jobs,
    }


def _document(problem: Problem) -> dict[str, Any]:
    document = dict.fromkeys(problem.__dataclass_fields__)
    return {**document, "severity": "error", **encode(problem)}


def _explain(app: App, analysis: Analysis, now: WorkflowInfo, step: str, as_json: bool) -> None:
    directory = newest_run(app.home, analysis)
    before = analysis_of(directory, engines=app.plugins.engines, as_was=True)
    then = inspect(before, settings=app.settings(analysis.root), until=directory.spec().until)
    found = reasons(directory, analysis, step, now=now, then=then)
    if as_json:
        print_json({"run": directory.id, "step": step, "repeated": bool(found), "reasons": found})
    elif found:
        click.echo(f"{directory.id} would repeat the step {step!r}:")
        for sentence in found:
            click.echo(f"  {report.legible(sentence)}")
    else:
        click.echo(
            f"{directory.id} would not repeat the step {step!r}: nothing that it depends on has changed"
        )
