"""The command that looks at the images of an analysis: images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from drawbar.backend import Backend
from drawbar.cli.checking import examine_given
from drawbar.cli.common import App, analysis_options, directory_of, json_option, print_json, print_table
from drawbar.cli.failures import show_problems
from drawbar.engine import Placement
from drawbar.errors import SpecError
from drawbar.images import refusal, resolve
from drawbar.planning import StepPlan
from drawbar.settings import Images

_SHORT_DIGEST = 19


@click.command()
@analysis_options
@json_option
@click.pass_obj
def images(app: App, /, analysis: str, as_json: bool, **given: Any) -> None:
    """List the images that an analysis needs, what they resolve to, and whether they are here.

    ANALYSIS is a reana.yaml, a directory that holds one (default: this one), or a workflow file.

    \b
    Examples:
      drawbar images
      drawbar images workflow.cwl --backend docker --json
    """
    found, plan, problems = examine_given(app, analysis, **given)
    if found is None or plan is None or plan.info is None:
        raise SpecError(problems)
    policy = app.settings(directory_of(analysis)).images
    rows = [_about(steps, policy, plan.backends) for steps in _by_image(plan.steps)]
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("IMAGE", "STEPS", "BACKEND", "RUNS", "HERE", "DIGEST"),
            [_row(row) for row in rows],
            empty="No step names an image.",
        )
        show_problems(problems)
    click.get_current_context().exit(0 if plan.valid else 2)


def _by_image(steps: Sequence[StepPlan]) -> list[list[StepPlan]]:
    """Steps that name the same image and go to the same backend, together."""
    groups: dict[tuple[str, str | None], list[StepPlan]] = {}
    for step in steps:
        if step.info.image is not None:
            backend = step.place.backend if isinstance(step.place, Placement) else None
            groups.setdefault((step.info.image, backend), []).append(step)
    return list(groups.values())


def _about(steps: Sequence[StepPlan], policy: Images, backends: Mapping[str, Backend]) -> dict[str, Any]:
    image, place = steps[0].info.image or "", steps[0].place
    row: dict[str, Any] = {
        "image": image,
        "steps": [step.info.name for step in steps],
        "backend": None,
        "resolved": None,
        "here": None,
        "digest": None,
        "allowed": _allowed(image, policy),
        "problem": str(place.problems[0]) if isinstance(place, SpecError) else None,
    }
    if isinstance(place, Placement):
        row["backend"] = place.backend
        if place.container and place.image is not None:
            row |= {"resolved": place.image, "allowed": True}
            try:
                known = backends[place.backend].find_image(place.image)
            except Exception as error:
                return {**row, "problem": str(error) or repr(error)}
            if known is not None:
                row |= {"here": known.here, "digest": known.digest}
    return row


def _allowed(image: str, policy: Images) -> bool:
    try:
        return refusal(resolve(image, policy), policy) is None
    except ValueError:
        return False


def _row(row: Mapping[str, Any]) -> tuple[Any, ...]:
    runs = row["resolved"] or ("not used" if row["problem"] is None else "none")
    here = {True: "yes", False: "no", None: "?"}[row["here"]] if row["resolved"] else ""
    if not row["allowed"]:
        runs = "not allowed"
    digest = (row["digest"] or "")[:_SHORT_DIGEST]
    return row["image"], ", ".join(row["steps"]), row["backend"] or "none", runs, here, digest
