"""What can be said about an analysis before it runs: its steps, where each will run, and all that is wrong.

The engine is asked in a process of its own, and steps are placed by the code that places their jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drawbar import enginehost
from drawbar.analysis import Analysis
from drawbar.backend import Backend, BackendFeature
from drawbar.choosing import choose
from drawbar.engine import EngineFeature, Placement, StepInfo, WorkflowInfo
from drawbar.errors import Problem, Severity, SpecError, by_message
from drawbar.gherkin import load_features
from drawbar.placement import FLOATING, Placer, floating_images, places
from drawbar.plugins import Plugins
from drawbar.settings import Containers, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """A step with its place, or with what keeps it from having one."""

    info: StepInfo
    place: Placement | SpecError | None
    """None for a step that makes no jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was found. `info` is None when the engine could not, or must not, look into the workflow."""

    info: WorkflowInfo | None
    steps: tuple[StepPlan, ...]
    problems: tuple[Problem, ...]
    """Errors first; those of steps that have no place are among them."""
    backends: Mapping[str, Backend] = field(default_factory=dict)
    """The backends that steps were placed on, not started."""

    @property
    def valid(self) -> bool:
        """Whether nothing stands in the way of a run."""
        return not any(problem.severity is Severity.ERROR for problem in self.problems)


def examine(
    analysis: Analysis,
    *,
    settings: Settings,
    plugins: Plugins,
    backend: str | None = None,
    container: str | None = None,
    until: str | None = None,
    allow_execution: bool = True,
) -> Plan:
    """Everything that is wrong with an analysis, and its steps as far as they are known before a run.

    Without `allow_execution` nothing of the specification is executed; an engine that cannot look
    into a workflow without that is not asked, which is among the warnings.
    """
    problems = list(analysis.warnings)
    info: WorkflowInfo | None = None
    if not allow_execution and not _inspects_without_execution(plugins, analysis.engine):
        problems.append(
            _warning(
                f"the workflow was not looked into: the engine {analysis.engine!r} cannot do that "
                "without executing it",
                "leave out --no-exec, if you trust it",
            )
        )
    else:
        try:
            info = enginehost.inspect(
                analysis, settings=settings, until=until, allow_execution=allow_execution
            )
            problems += [_warning(text) for text in info.warnings]
        except SpecError as error:
            problems += error.problems
    placer = Placer(settings, plugins, backend, Containers(container) if container else None)
    steps = _placed(placer, info) if info else []
    problems += [each for step in steps if isinstance(step.place, SpecError) for each in step.place.problems]
    placed = [(step.info, step.place) for step in steps if isinstance(step.place, Placement)]
    problems += _ignored_images(steps, placer)
    if floating := floating_images(placed):
        problems.append(_warning(f"{FLOATING}: {', '.join(floating)}", "name a tag or a digest"))
    try:
        files = (analysis.root / file for file in analysis.test_files)
        load_features([path for path in files if path.exists()])
    except SpecError as error:
        problems += error.problems
    problems = by_message(problems)
    problems.sort(key=lambda problem: problem.severity is not Severity.ERROR)
    return Plan(info=info, steps=tuple(steps), problems=tuple(problems), backends=placer.backends)


def _placed(placer: Placer, info: WorkflowInfo) -> list[StepPlan]:
    try:
        choose(placer, info)
    except SpecError as error:
        return [StepPlan(info=step, place=error if step.jobs != 0 else None) for step in info.steps]
    return [StepPlan(info=step, place=place) for step, place in places(placer, info)]


def _inspects_without_execution(plugins: Plugins, engine: str) -> bool:
    return EngineFeature.INSPECT_WITHOUT_EXECUTION in plugins.engine(engine).features


def _ignored_images(steps: Sequence[StepPlan], placer: Placer) -> list[Problem]:
    """One line for each backend that runs steps without the images they name."""
    ignored = Counter(
        step.place.backend
        for step in steps
        if isinstance(step.place, Placement) and step.info.image and not step.place.container
    )
    problems = []
    for backend, count in ignored.items():
        able = BackendFeature.RUNTIME in placer.get(backend).features
        why = "as asked for" if placer.choice is Containers.NONE else "it has no containers"
        message = f"{count} of {len(steps)} steps run without their images on the backend {backend!r}, {why}"
        hint = "they use what is installed there"
        if able and placer.choice is not Containers.NONE:
            hint += "; with --container apptainer they run in their images"
        problems.append(_warning(message, hint))
    return problems


def _warning(message: str, hint: str | None = None) -> Problem:
    return Problem(message=message, hint=hint, severity=Severity.WARNING)
