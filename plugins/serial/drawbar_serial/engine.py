"""Drives a serial specification: one job per command, one after another, in the workspace."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drawbar.closure import Closure
from drawbar.documents import load
from drawbar.engine import (
    Engine,
    EngineFeature,
    JobClient,
    Lookup,
    Placement,
    Source,
    StepFailed,
    StepInfo,
    WorkflowInfo,
)
from drawbar.errors import Problem, Severity, SpecError
from drawbar.lastlines import last_lines
from drawbar.model import Input, JobResult, JobSpec, Outputs, Reason
from drawbar.options import Options, did_you_mean, option
from drawbar.paths import walk

from drawbar_serial.steps import Reader, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialOptions(Options):
    """REANA's operational options of a serial workflow."""

    CACHE: str | bool = option("on", help="off: results are not offered to other runs, nor taken from them")
    FROM: str | None = option(None, help="the step to begin with; those before it are left out")
    TARGET: str | None = option(None, help="the step to end with; those after it are left out")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A checked specification: the steps that will run, and what is worth a warning."""

    steps: tuple[Step, ...]
    skipped: tuple[str, ...]
    reusable: bool
    definition: Path
    closure: Closure
    warnings: tuple[Problem, ...]


class SerialEngine(Engine):
    """REANA's serial workflows."""

    name = "serial"
    api = 1
    features = frozenset({EngineFeature.UNTIL, EngineFeature.INSPECT_WITHOUT_EXECUTION})
    Options: ClassVar[type[Options]] = SerialOptions

    def recognises(self, path: Path) -> bool:
        """Whether a YAML or JSON file is a mapping whose `steps` are a list with `commands` in each."""
        if path.suffix not in (".yaml", ".yml", ".json"):
            return False
        try:
            document = load(path).value
        except SpecError:
            return False
        steps = document.get("steps") if isinstance(document, Mapping) else None
        return isinstance(steps, list) and any(
            isinstance(each, Mapping) and "commands" in each for each in steps
        )

    def inspect(self, source: Source) -> WorkflowInfo:
        """Every step with its commands filled in. All mistakes are found here, before any job."""
        plan = _plan(source)
        return WorkflowInfo(
            steps=tuple(
                StepInfo(
                    name=step.name,
                    image=step.image,
                    image_required=True,
                    commands=step.commands,
                    depends_on=(plan.steps[number - 1].name,) if number else (),
                    inputs=plan.closure.inputs_of(step.commands),
                    hints=step.hints,
                    jobs=len(step.commands),
                    line=step.line,
                )
                for number, step in enumerate(plan.steps)
            ),
            parameters=tuple(source.parameters),
            files=() if source.file is None else (os.path.relpath(source.root / source.file, source.root),),
            warnings=tuple(str(problem) for problem in plan.warnings),
        )

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        """Run the steps in order, up to the first command that fails."""
        plan = _plan(source)
        placements = [
            jobs.place(step=step.name, image=step.image, image_required=True, hints=step.hints)
            for step in plan.steps
        ]
        jobs.progress(sum(len(step.commands) for step in plan.steps))
        after: Any = {"without": list(plan.skipped)} if plan.skipped else None
        for number, (step, placement) in enumerate(zip(plan.steps, placements, strict=True)):
            for index, command in enumerate(step.commands):
                spec = _spec(plan, step, index, placement, jobs, after)
                after = jobs.key(spec)
                jobs.log(
                    "root",
                    "INFO",
                    f"Publishing step:{number}, cmd: {command}, total steps {len(plan.steps)} to MQ",
                )
                result = _run(spec, jobs)
                if not result.ok:
                    raise StepFailed(step.name, _failure(step, index, result), result)
        jobs.log("root", "INFO", f"Workflow {jobs.run_id} finished. Files available at {jobs.workspace}.")
        return Outputs()


def _plan(source: Source) -> _Plan:
    """The checked specification; a `SpecError` has every mistake in it."""
    if source.specification is not None:
        reader = Reader(str(source.document), source.lines, "workflow.specification")
        specification: Any = source.specification
    elif source.file is not None:
        document = load(source.root / source.file, shown=str(source.file))
        reader = Reader(document.path, document.lines, "")
        specification = document.value
    else:
        raise SpecError(Problem(message="a serial workflow needs a specification", file=str(source.document)))
    steps = reader.read(specification, source.parameters)
    options = SerialOptions.parse(source.options, where="serial workflow")
    first, end = _selection(steps, options.FROM, source.until or options.TARGET, reader)
    cache = str(options.CACHE).lower()
    if cache not in ("on", "off", "true", "false"):
        reader.wrong("", f"CACHE is on or off, not {options.CACHE!r}")
    if any(problem.severity is Severity.ERROR for problem in reader.problems):
        raise SpecError(reader.problems)
    definition = source.definition or source.root
    files = [file for name in source.declared for file in _files(definition, name)]
    return _Plan(
        steps=steps[first:end],
        skipped=tuple(step.name for step in steps[:first]),
        reusable=cache in ("on", "true") and first == 0,
        definition=definition,
        closure=Closure(definition, files, [text for step in steps for text in step.commands]),
        warnings=tuple(reader.problems),
    )


def _files(root: Path, name: str) -> Iterator[str]:
    """A declared file, or the files in a declared directory; nothing for what is not there."""
    if (root / name).is_dir():
        for entry in walk(root, name, "inputs.directories"):
            if not entry.directory:
                yield entry.path
    elif (root / name).exists():
        yield name


def _selection(
    steps: Sequence[Step], first: str | None, target: str | None, reader: Reader
) -> tuple[int, int]:
    """The range of steps that FROM and TARGET ask for; names are compared without case."""
    places = {step.name.casefold(): number for number, step in enumerate(steps)}
    for option_name, name in (("FROM", first), ("TARGET", target)):
        if name is not None and name.casefold() not in places:
            close = did_you_mean(name.casefold(), places)
            hint = close if close and "mean" in close else None
            known = ", ".join(step.name for step in steps)
            reader.wrong("", f"{option_name} names {name!r}, but the steps are: {known}", hint)
    begin = places.get(first.casefold(), 0) if first is not None else 0
    end = places.get(target.casefold(), len(steps)) + 1 if target is not None else len(steps)
    if begin >= end:
        reader.wrong("", f"FROM {first!r} comes after TARGET {target!r}: no step would run")
    return begin, end


def _spec(plan: _Plan, step: Step, index: int, placement: Placement, jobs: JobClient, after: Any) -> JobSpec:
    command = step.commands[index]
    workspace = str(jobs.workspace)
    return JobSpec(
        identity=f"{step.index}:{step.name}.{index}",
        name=step.name if len(step.commands) == 1 else f"{step.name}.{index}",
        step=step.name,
        argv=("bash", "-c", command),
        directory=workspace,
        # A command sees whatever the commands before it left, so all of them determine its result.
        canonical={
            "command": _placeholder(command, workspace),
            "image": step.image,
            "container": placement.container,
            "after": after,
        },
        image=placement.image if placement.container else None,
        image_required=placement.container,
        environment={"REANA_WORKSPACE": workspace, "REANA_WORKFLOW_UUID": jobs.run_id},
        inputs=tuple(
            Input(path=str(plan.definition / name), name=name) for name in plan.closure.inputs_of([command])
        ),
        undeclared_outputs=True,
        resources=placement.resources,
        hints=placement.hints,
        backend=placement.backend,
        reusable=plan.reusable,
    )


def _placeholder(command: str, workspace: str) -> str:
    """The command with the workspace's path, where it stands as a whole path, named and not spelt out."""
    return re.sub(rf"(?<![\w./~-]){re.escape(workspace)}(?![\w.-])", "<workspace>", command)


def _run(spec: JobSpec, jobs: JobClient) -> JobResult:
    (ticket,) = jobs.submit([spec])
    if ticket.found is Lookup.HIT and ticket.result is not None:
        return ticket.result
    executed = jobs.wait()
    assert executed is not None, "the one job in flight ends"
    if executed.result.ok:
        jobs.accept(executed.ticket)
    return executed.result


def _failure(step: Step, index: int, result: JobResult) -> str:
    """What to tell the user about a command that failed: which, how, its last words, where to read on."""
    how = "failed" if result.reason is None else f"failed ({result.reason})"
    if result.reason is Reason.EXIT_CODE:
        how = f"ended with exit code {result.exit_code}"
    elif result.reason is Reason.CANCELLED:
        how = "was cancelled"
    which = f"command {index + 1} of {len(step.commands)}" if len(step.commands) > 1 else "the command"
    first, *others = step.commands[index].strip().splitlines()
    lines = [f"step {step.name!r}: {which} {how}: {first}{' …' if others else ''}"]
    if result.message:
        lines.append(result.message)
    if result.stderr is not None:
        lines += [f"  {line}" for line in last_lines(Path(result.stderr))]
        lines.append(f"its log: {result.stderr}")
    return "\n".join(lines)
