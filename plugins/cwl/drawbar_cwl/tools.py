"""cwltool's processes, as drawbar runs them: tools that make jobs, steps that know where they are."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from cwltool.command_line_tool import CommandLineTool
from cwltool.context import LoadingContext
from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.mpi import MPIRequirementName
from cwltool.process import Process, shortname
from cwltool.workflow import Workflow, WorkflowStep, default_make_tool
from drawbar.engine import Placement
from drawbar.identity import canonical_json
from drawbar.model import Resources, WorkspaceNeed
from drawbar.placement import BACKEND_HINT
from ruamel.yaml.comments import CommentedMap

from drawbar_cwl.canonical import of_tool, uses_resources
from drawbar_cwl.context import Context
from drawbar_cwl.jobs import Job
from drawbar_cwl.options import CwlOptions

_TASKS = "tasks"
"""The hint that says how many processes a job has, for backends that give them places."""
_AUTOMATIC_NAME = re.compile(r"[0-9a-f]{40}")


def make_process(description: CommentedMap, loading: LoadingContext) -> Process:
    """What cwltool is to make of a part of a document."""
    if description.get("class") == "CommandLineTool":
        return Tool(description, loading)
    if description.get("class") == "Workflow":
        return Flow(description, loading)
    return default_make_tool(description, loading)


class Tool(CommandLineTool):
    """A tool; `canonical` is what of its description determines a job's result."""

    def __init__(self, toolpath_object: CommentedMap, loadingContext: LoadingContext) -> None:  # noqa: N803
        super().__init__(toolpath_object, loadingContext)
        _name_streams(self.tool)
        self.canonical: Any = of_tool(self)
        self.uses_resources = uses_resources(self.canonical)
        self._placements: dict[tuple[Any, ...], Placement] = {}

    @property
    def image(self) -> tuple[str | None, bool]:
        """The container image, and whether it is required or only a hint."""
        docker, required = self.get_requirement("DockerRequirement")
        if not docker or (self.mpi[1] and not required):
            return None, False
        return str(docker.get("dockerPull") or docker.get("dockerImageId") or "") or None, bool(required)

    @property
    def mpi(self) -> tuple[Any, bool]:
        """How many processes of it run together, as far as that is known, and whether they have to."""
        asked, required = self.get_requirement(MPIRequirementName)
        return (None, False) if asked is None else (asked.get("processes", 1), bool(required))

    @property
    def workspace(self) -> WorkspaceNeed:
        """A tool sees its inputs and its own directory; only one that changes inputs in place needs more."""
        inplace, _ = self.get_requirement("InplaceUpdateRequirement")
        return WorkspaceNeed.SHARED if inplace else WorkspaceNeed.DECLARED

    def wishes(self, options: CwlOptions, tasks: int | None = None) -> Mapping[str, Any]:
        """What is asked of a backend: by REANA's hints, of which the innermost wins, and by the options.

        `tasks` are the processes of one job, where they are known by now.
        """
        found: dict[str, Any] = {}
        if self.mpi[0] is not None:
            found[_TASKS] = tasks or (self.mpi[0] if isinstance(self.mpi[0], int) else 1)
        if options.without_image and self.image[0] is None:
            found[BACKEND_HINT] = options.without_image
        for hint in self.hints:
            if re.split(r"[#/:]", str(hint.get("class", "")))[-1] == "reana":
                found.update({key: value for key, value in hint.items() if key != "class"})
        return found

    def place(
        self,
        context: Context,
        resources: Resources = Resources(),  # noqa: B008 (frozen)
        tasks: int | None = None,
    ) -> Placement:
        """Where the tool's jobs run, and whether in its image."""
        question = (context.step, resources, tasks)
        known = self._placements.get(question)
        if known is None:
            known = self._placements[question] = self._place(context, resources, tasks)
        return known

    def launcher(self, options: CwlOptions, placement: Placement, tasks: int | None) -> tuple[str, ...]:
        """What starts so many processes of a command; nothing for a hint that is ignored."""
        if not tasks or _without_mpi(options, placement):
            return ()
        return (*shlex.split(options.mpi), str(tasks))

    def _place(self, context: Context, resources: Resources, tasks: int | None) -> Placement:
        image, required = self.image
        docker, _ = self.get_requirement("DockerRequirement")
        if docker and required and image is None:
            raise UnsupportedRequirement("only dockerPull and dockerImageId can name an image")
        execution = context.execution
        if execution.options.no_container:
            if required:
                raise UnsupportedRequirement(
                    f"step {'/'.join(context.step)}: runs without containers, but DockerRequirement is "
                    "under 'requirements'"
                )
            image = None
        placement = execution.jobs.place(
            step="/".join(context.step),
            image=image,
            image_required=required,
            resources=resources,
            hints=self.wishes(execution.options, tasks),
            workspace=self.workspace,
        )
        if self.mpi[1] and (why := _without_mpi(execution.options, placement)):
            raise UnsupportedRequirement(f"step {'/'.join(context.step)}: {why}")
        return placement

    def job(  # type: ignore[override]
        self,
        job_order: Any,
        output_callbacks: Callable[[Any, str], None],
        runtimeContext: Context,  # noqa: N803
    ) -> Iterator[Any]:
        """The one job of an invocation, in a directory of its own that follows from its identity."""
        context = runtimeContext.copy()
        if not context.identity:
            context = context.entering(tool_name(self.tool))
        context.use_container = self.place(context).container
        directory = context.execution.jobs.directory("/".join(context.identity))
        context.outdir = context.docker_outdir = f"{directory}/out"
        context.tmpdir = context.docker_tmpdir = f"{directory}/tmp"  # noqa: S108 (its own)
        context.stagedir = context.docker_stagedir = f"{directory}/in"
        context.name = "/".join(context.identity)
        return super().job(job_order, output_callbacks, context)

    def make_job_runner(self, runtimeContext: Context) -> Any:  # type: ignore[override]  # noqa: N803
        """Makes the job of an invocation."""
        return partial(Job, tool=self, context=runtimeContext)


def _without_mpi(options: CwlOptions, placement: Placement) -> str | None:
    """Why a job cannot have several processes there, or None."""
    if placement.container and placement.image:
        return "MPIRequirement, and an image to run in"
    program = (*shlex.split(options.mpi), "")[0]
    if _TASKS in placement.hints.get(placement.backend, {}) or shutil.which(program):
        return None
    return (
        f"MPIRequirement needs {program!r}, which is not here, and the backend {placement.backend!r} "
        "knows nothing of tasks; install it, or name another with -o mpi=..."
    )


class Flow(Workflow):
    """A workflow whose steps know where they are."""

    def make_workflow_step(
        self,
        toolpath_object: CommentedMap,
        pos: int,
        loadingContext: LoadingContext,  # noqa: N803
        parentworkflowProv: Any = None,  # noqa: N803
    ) -> WorkflowStep:
        """A step of this workflow."""
        return Step(toolpath_object, pos, loadingContext, parentworkflowProv)

    def only(self, until: str) -> None:
        """Leave out every step that is not needed for the step `until`, and the outputs of those."""
        steps = {shortname(step.id): step for step in self.steps}
        if until not in steps:
            raise WorkflowException(f"there is no step {until!r}; the steps are: {', '.join(sorted(steps))}")
        makes = {each["id"]: name for name, step in steps.items() for each in step.tool["outputs"]}
        needed, pending = {until}, [until]
        while pending:
            for source in sources(steps[pending.pop()].tool["inputs"]):
                name = makes.get(source)
                if name is not None and name not in needed:
                    needed.add(name)
                    pending.append(name)
        self.steps = [step for name, step in steps.items() if name in needed]
        self.tool["outputs"] = [
            each
            for each in self.tool["outputs"]
            if all(makes.get(source, until) in needed for source in sources([each], "outputSource"))
        ]


class Step(WorkflowStep):
    """A step that tells what it runs where it is."""

    def job(  # type: ignore[override]
        self,
        job_order: Any,
        output_callbacks: Callable[[Any, str], None],
        runtimeContext: Context,  # noqa: N803
    ) -> Iterator[Any]:
        """The jobs of this step, for one element of a scatter where it has one."""
        name = shortname(self.id)
        times = 1
        if self.tool.get("loop"):
            times = runtimeContext.execution.rounds((*runtimeContext.identity, name, *runtimeContext.indices))
        inner = runtimeContext.entering(name, times)
        return super().job(job_order, output_callbacks, inner)


def sources(parameters: Any, key: str = "source") -> list[str]:
    """Where the values of parameters come from."""
    found: list[str] = []
    for each in parameters:
        source = each.get(key) or ()
        found += [source] if isinstance(source, str) else list(source)
    return found


def tool_name(description: Mapping[str, Any]) -> str:
    """What a tool that is no step of a workflow is called: after its fragment or its file."""
    identifier = str(description.get("id", ""))
    if identifier.startswith("_:"):
        return "tool"
    name = re.split(r"[#/]", identifier)[-1]
    if name == "main":
        name = re.split(r"[#/]", identifier)[-2]
    return re.sub(r"\.(cwl|ya?ml|json)$", "", name) or "tool"


def _name_streams(tool: Any) -> None:
    """Give unnamed standard streams names that do not depend on where the document is."""
    for stream in ("stdout", "stderr"):
        name = tool.get(stream)
        if not isinstance(name, str) or not _AUTOMATIC_NAME.fullmatch(name):
            continue
        commands = [tool.get("baseCommand"), [shortname(each["id"]) for each in tool["outputs"]]]
        stable = hashlib.sha1(canonical_json([stream, *commands]), usedforsecurity=False).hexdigest()
        tool[stream] = stable
        for each in tool["outputs"]:
            if (each.get("outputBinding") or {}).get("glob") == name:
                each["outputBinding"]["glob"] = stable
