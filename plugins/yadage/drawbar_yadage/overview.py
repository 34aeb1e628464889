"""What is known of a workflow's steps before it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from drawbar.engine import StepInfo

from drawbar_yadage.jobs import runs_a_command
from drawbar_yadage.requirements import hints_of, image_of, resources_of
from drawbar_yadage.schemas import parameter_items
from drawbar_yadage.specification import Specification, texts

_PART = r"[A-Za-z_@][\w@-]*(\[(\*|\d+)\])?"
SIMPLE_PATH = re.compile(rf"{_PART}(\.{_PART})*")
"""A JSONPath that is a path of stages, `sub[*].map`: nearly all that are ever written."""


def steps_of(specification: Specification) -> Iterator[StepInfo]:
    """Every stage that runs a command, those of sub-workflows with the stages around them: `sub/map`.

    A stage with cases has one for each case: `fit`, `fit#2`.
    """
    yield from _scope(specification, specification.value["stages"], "stages", "", ())


def bodies(scheduler: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The parts of a scheduler that hold a `step` or a `workflow`, with their places."""
    if "cases" in scheduler:
        for number, case in enumerate(scheduler["cases"]):
            yield f"{pointer}.cases.{number}", case
    else:
        yield pointer, scheduler


def _scope(
    specification: Specification, stages: Any, pointer: str, prefix: str, around: tuple[str, ...]
) -> Iterator[StepInfo]:
    made = {
        stage["name"]: (stage, [*_stage(specification, stage, f"{pointer}.{number}", prefix, around)])
        for number, stage in enumerate(stages)
    }

    def before(name: str, seen: set[str]) -> Iterator[str]:
        """The steps of what a stage mentions; where that has none, of what that mentions in turn."""
        for other in needed(made[name][0]["dependencies"], made[name][0]["scheduler"]):
            if other in made and other not in seen:
                seen.add(other)
                infos = made[other][1]
                yield from (info.name for info in infos) if infos else before(other, seen)

    for name, (_, infos) in made.items():
        needs = [*before(name, {name})] if infos else []
        for info in infos:
            yield replace(info, depends_on=tuple(dict.fromkeys((*info.depends_on, *needs))))


def _stage(
    specification: Specification,
    stage: Mapping[str, Any],
    pointer: str,
    prefix: str,
    around: tuple[str, ...],
) -> Iterator[StepInfo]:
    scheduler, name = stage["scheduler"], f"{prefix}{stage['name']}"
    single = scheduler["scheduler_type"] == "singlestep-stage" and "cases" not in scheduler
    number = 0
    for place, body in bodies(scheduler, f"{pointer}.scheduler"):
        if "workflow" in body:
            inner = body["workflow"]["stages"]
            yield from _scope(specification, inner, f"{place}.workflow.stages", f"{name}/", around)
        elif "step" in body and runs_a_command(body["step"]):
            number += 1
            environment, process = body["step"]["environment"], body["step"]["process"]
            yield StepInfo(
                name=name if number == 1 else f"{name}#{number}",
                image=image_of(environment),
                image_required=image_of(environment) is not None,
                commands=(process.get("cmd") or process.get("script"),),
                resources=resources_of(environment),
                hints=hints_of(environment),
                jobs=1 if single and not prefix else None,
                line=specification.place(pointer)[1],
            )


@dataclass(frozen=True, slots=True)
class Selection:
    """Something of its scope that a stage waits for or selects: a path of stages, or a registered value."""

    text: str
    registered: bool = False


def selections(condition: Any, scheduler: Mapping[str, Any]) -> Iterator[Selection]:
    """What a stage's condition, its parameters and the values that it registers mention."""
    for each in (condition or {}).get("expressions", ()):
        yield from [Selection(each)] if isinstance(each, str) else _selected(each)
    for _, value, _ in parameter_items(scheduler.get("parameters")):
        yield from _selected(value)
    for value in (scheduler.get("register_values") or {}).values():
        yield from _selected(value)


def _selected(expression: Any) -> Iterator[Selection]:
    if not isinstance(expression, Mapping) or "expression_type" not in expression:
        return
    paths = [expression.get(key) for key in ("step", "steps", "stages", "scope")]
    yield from (Selection(path) for path in paths if isinstance(path, str))
    if isinstance(expression.get("key"), str) and "scope" not in expression:
        yield Selection(expression["key"], registered=True)


def needed(condition: Any, scheduler: Mapping[str, Any]) -> Iterator[str]:
    """The names of the stages that a stage's condition and parameters mention."""
    yield from (first_name(each.text) for each in selections(condition, scheduler) if not each.registered)


def job_texts(value: Any) -> Iterator[str]:
    """The texts of a workflow that reach commands: templates, and constant parameters."""
    if isinstance(value, list):
        for item in value:
            yield from job_texts(item)
    elif isinstance(value, Mapping):
        if "scheduler_type" in value:
            for _, given, _ in parameter_items(value.get("parameters")):
                if not (isinstance(given, Mapping) and "expression_type" in given):
                    yield from texts(given)
            yield from (value[key] for key in ("stepscript", "postscript") if key in value)
        if "process_type" in value or "environment_type" in value:
            yield from texts(value)
        for item in value.values():
            yield from job_texts(item)


def first_name(path: str) -> str:
    """The stage that a path such as `sub[*].map` begins with."""
    return path.partition(".")[0].partition("[")[0]
