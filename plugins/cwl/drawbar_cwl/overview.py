"""What is known about the steps of a workflow before it runs."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cwltool.process import Process, shortname
from cwltool.workflow import Workflow
from drawbar.engine import StepInfo
from drawbar.errors import Problem, Unsupported
from drawbar.model import Resources

from drawbar_cwl.options import CwlOptions
from drawbar_cwl.tools import Tool, sources, tool_name


def steps(process: Process, options: CwlOptions) -> tuple[StepInfo, ...]:
    """Every tool and expression that a process is made of, in the order of the document.

    With the option `no_container`, images that are hints are left out, and others raise `Unsupported`.
    """
    if isinstance(process, Workflow):
        found = tuple(_inside(process, "", (), 1, options))
    else:
        found = (_info(process, tool_name(process.tool), (), 1, options),)
    if not options.no_container:
        return found
    problems = [
        Problem(
            message=f"needs the image {each.image}, and is to run without containers",
            step=each.name,
            line=each.line,
        )
        for each in found
        if each.image_required
    ]
    if problems:
        raise Unsupported(problems)
    return tuple(replace(each, image=None) for each in found)


def _inside(
    workflow: Workflow, prefix: str, before: tuple[str, ...], times: int | None, options: CwlOptions
) -> Iterator[StepInfo]:
    """The steps of a workflow that is itself the step `prefix`, all of it after the steps `before`."""
    described = {each["id"]: number for number, each in enumerate(workflow.tool["steps"])}
    ordered = sorted(workflow.steps, key=lambda step: described.get(step.id, 0))
    makes = {each["id"]: step.id for step in ordered for each in step.tool["outputs"]}
    leaves = {
        step.id: tuple(name for name, _ in _leaves(step.embedded_tool, prefix + shortname(step.id)))
        for step in ordered
    }
    for step in ordered:
        needed = {makes[source] for source in sources(step.tool["inputs"]) if source in makes}
        after = tuple(
            dict.fromkeys(
                (*before, *(leaf for each in ordered if each.id in needed for leaf in leaves[each.id]))
            )
        )
        repeated = any(key in step.tool for key in ("scatter", "when", "loop"))
        inner = None if repeated or times is None else times
        name = prefix + shortname(step.id)
        if isinstance(step.embedded_tool, Workflow):
            yield from _inside(step.embedded_tool, f"{name}/", after, inner, options)
        else:
            yield _info(step.embedded_tool, name, after, inner, options)


def tools(process: Process) -> Iterator[tuple[str, Tool]]:
    """Every tool that a process is made of, with the name of its step."""
    for name, leaf in _leaves(process, ""):
        if isinstance(leaf, Tool):
            yield name or tool_name(process.tool), leaf


def _leaves(process: Process, name: str) -> Iterator[tuple[str, Process]]:
    if not isinstance(process, Workflow):
        yield name, process
        return
    for step in process.steps:
        yield from _leaves(step.embedded_tool, f"{name}/{shortname(step.id)}".lstrip("/"))


def _info(
    process: Process, name: str, after: tuple[str, ...], times: int | None, options: CwlOptions
) -> StepInfo:
    line = getattr(getattr(process.tool, "lc", None), "line", None)
    if not isinstance(process, Tool):
        return StepInfo(name=name, depends_on=after, jobs=0, line=None if line is None else line + 1)
    image, required = process.image
    return StepInfo(
        name=name,
        image=image,
        image_required=required,
        commands=(_command(process),),
        depends_on=after,
        resources=_resources(process),
        hints=process.wishes(options),
        workspace=process.workspace,
        jobs=times,
        line=None if line is None else line + 1,
    )


def _command(tool: Tool) -> str:
    """The words of the command that are known; what an expression gives is not."""
    base: Any = tool.tool.get("baseCommand") or []
    words = [base] if isinstance(base, str) else [str(each) for each in base]
    words += [each for each in tool.tool.get("arguments") or [] if isinstance(each, str) and "$" not in each]
    return shlex.join(words)


def _resources(tool: Tool) -> Resources:
    """What a tool asks for in plain numbers."""
    asked, _ = tool.get_requirement("ResourceRequirement")

    def number(kind: str) -> Any:
        value = (asked or {}).get(f"{kind}Min", (asked or {}).get(f"{kind}Max"))
        return value if isinstance(value, int | float) and value > 0 else None

    memory = number("ram")
    return Resources(cpus=number("cores") or 1, memory_mib=None if memory is None else int(memory) or None)
