"""The part of a workflow that is needed for one of its steps: what a run with `--until STEP` executes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drawbar.errors import SpecError
from drawbar.options import did_you_mean

from drawbar_yadage.overview import SIMPLE_PATH, bodies, first_name, selections
from drawbar_yadage.specification import Specification

Stages = Sequence[Mapping[str, Any]]


def shortened(specification: Specification, until: str) -> dict[str, Any]:
    """The workflow with only a step, or a stage, and what that needs.

    A stage of a sub-workflow is named with the stages around it, `sub/map`; a step of a stage with cases
    stands for the stage. Raises `SpecError` when there is none of that name.
    """
    workflow: dict[str, Any] = specification.value
    name = until.partition("#")[0]
    known = [*stage_names(workflow["stages"])]
    if name not in known:
        message = f"there is no step {until!r} to end with"
        raise SpecError(specification.problem("", message, hint=did_you_mean(until, known)))
    return {**workflow, "stages": _needed(workflow["stages"], name)}


def stage_names(stages: Stages, prefix: str = "") -> Iterator[str]:
    """The names of all stages, those of sub-workflows with the stages around them."""
    for stage in stages:
        name = f"{prefix}{stage['name']}"
        yield name
        for _, body in bodies(stage["scheduler"], ""):
            if "workflow" in body:
                yield from stage_names(body["workflow"]["stages"], f"{name}/")


def _needed(stages: Stages, until: str) -> list[Mapping[str, Any]]:
    name, _, inner = until.partition("/")
    known = {stage["name"]: stage for stage in stages}
    found, pending = {name}, [name]
    while pending:
        more = {*_mentioned(known[pending.pop()], stages)} & known.keys() - found
        found |= more
        pending += more
    return [
        _inside(stage, inner) if inner and stage["name"] == name else stage
        for stage in stages
        if stage["name"] in found
    ]


def _inside(stage: Mapping[str, Any], until: str) -> Mapping[str, Any]:
    """A stage with a sub-workflow that ends with a step of it."""

    def shorter(body: Mapping[str, Any]) -> Mapping[str, Any]:
        if "workflow" not in body or until not in stage_names(body["workflow"]["stages"]):
            return body
        workflow = body["workflow"]
        return {**body, "workflow": {**workflow, "stages": _needed(workflow["stages"], until)}}

    scheduler = shorter(stage["scheduler"])
    if "cases" in scheduler:
        scheduler = {**scheduler, "cases": [shorter(case) for case in scheduler["cases"]]}
    return {**stage, "scheduler": scheduler}


def _mentioned(stage: Mapping[str, Any], stages: Stages) -> Iterator[str]:
    """The stages that a stage waits for or selects from; every one where a path is not that plain."""
    for selection in selections(stage["dependencies"], stage["scheduler"]):
        if selection.registered:
            yield from (
                each["name"]
                for each in stages
                if selection.text in (each["scheduler"].get("register_values") or {})
            )
        elif SIMPLE_PATH.fullmatch(selection.text):
            yield first_name(selection.text)
        else:
            yield from (each["name"] for each in stages)
