"""The engine: reads and checks a yadage workflow, then drives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drawbar.closure import Closure
from drawbar.documents import load
from drawbar.engine import Engine, EngineFeature, JobClient, Source, WorkflowInfo
from drawbar.errors import Problem, Severity, SpecError
from drawbar.model import Outputs
from drawbar.options import Options
from drawbar.paths import inside, walk

from drawbar_yadage import initial, specification
from drawbar_yadage.initial import YadageOptions
from drawbar_yadage.schemas import as_yadage, complete
from drawbar_yadage.specification import Specification, texts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A checked workflow, complete, and the part of it that shall run, with its initial data."""

    specification: Specification
    workflow: Mapping[str, Any]
    initdata: Mapping[str, Any]
    options: YadageOptions
    definition: Path
    warnings: tuple[Problem, ...]


class YadageEngine(Engine):
    """Yadage workflows, as RECAST, MadMiner and REANA have them."""

    name = "yadage"
    api = 1
    features = frozenset(
        {EngineFeature.UNTIL, EngineFeature.INSPECT_WITHOUT_EXECUTION, EngineFeature.LAZY_STEPS}
    )
    Options: ClassVar[type[Options]] = YadageOptions

    @classmethod
    def preload(cls) -> None:
        """Import yadage."""
        from drawbar_yadage import driver, library

        assert driver
        library.load()

    def recognises(self, path: Path) -> bool:
        """Whether a YAML or JSON file is a mapping whose `stages` are a list with a `scheduler` in one."""
        if path.suffix not in (".yaml", ".yml", ".json"):
            return False
        try:
            document = load(path).value
        except SpecError:
            return False
        stages = document.get("stages") if isinstance(document, Mapping) else None
        return isinstance(stages, list) and any(
            isinstance(each, Mapping) and ("scheduler" in each or "$ref" in each) for each in stages
        )

    def inspect(self, source: Source) -> WorkflowInfo:
        """Every stage that may run a job. All mistakes that can be found without running are found here."""
        from drawbar_yadage.overview import steps_of
        from drawbar_yadage.until import stage_names

        plan = _plan(source)
        names = {*stage_names(plan.workflow["stages"])}
        return WorkflowInfo(
            steps=tuple(
                step for step in steps_of(plan.specification) if step.name.partition("#")[0] in names
            ),
            parameters=tuple(plan.initdata),
            files=plan.specification.files,
            warnings=tuple(str(problem) for problem in plan.warnings),
        )

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        """Run every stage whose turn comes."""
        from drawbar_yadage.diagram import mermaid
        from drawbar_yadage.driver import Driver
        from drawbar_yadage.jobs import JobMaker
        from drawbar_yadage.overview import job_texts

        plan = _plan(source)
        value = plan.specification.value
        sources = [*_sources(source, plan)]
        closure = Closure(plan.definition, sources, [*job_texts(value), *texts(dict(plan.initdata))])
        stages = [stage["name"] for stage in value["stages"]]
        maker = JobMaker(jobs, plan.definition, closure, sources, stages)
        provider = initial.provider(jobs.workspace, plan.definition, plan.options)
        driver = Driver(as_yadage(plan.workflow), plan.initdata, provider, maker, jobs)
        try:
            driver.run()
        finally:
            driver.save(jobs.workspace / "_yadage" / "yadage_snapshot_workflow.json")
            if plan.options.diagram is not None:
                place = inside(jobs.workspace, plan.options.diagram, "diagram")
                place.write_text(mermaid(driver.workflow))
        return Outputs()


def _plan(source: Source) -> _Plan:
    """The checked workflow; a `SpecError` has every mistake in it."""
    options = YadageOptions.parse(source.options, where="yadage workflow")
    initial.check_options(options, str(source.document))
    definition = source.definition or source.root
    plan = specification.read(source, definition, options.toplevel, network=options.allow_network)
    problems = complete(plan)
    initdata = initial.parameters(definition, options, source.parameters)
    if not problems:
        from drawbar_yadage.checks import check

        problems = check(plan, initdata)
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise SpecError(problems)
    workflow = plan.value
    if source.until is not None:
        from drawbar_yadage.until import shortened

        workflow = shortened(plan, source.until)
    return _Plan(
        specification=plan,
        workflow=workflow,
        initdata=initdata,
        options=options,
        definition=definition,
        warnings=tuple(problems),
    )


def _sources(source: Source, plan: _Plan) -> Iterator[str]:
    """The source files that jobs may read: those that are declared, else all that came with the workflow.

    The files of the workflow itself are none: what they say is in the jobs.
    """
    own = {*plan.specification.files, source.document.name}
    if not source.declared and source.definition is None:
        return
    for name in source.declared or ("",):
        place = plan.definition / name
        if place.is_dir():
            yield from (
                entry.path
                for entry in walk(plan.definition, name, "inputs", listed=False)
                if not entry.directory and entry.path not in own
            )
        elif place.exists() and name not in own:
            yield name
