"""Chooses where an analysis runs when neither user, settings, steps nor site policy say it.

Images decide: without one, this machine; else a container engine if one answers, else Apptainer on
this machine. A choice is made once in a run, which keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drawbar.engine import StepInfo, WorkflowInfo
from drawbar.errors import DrawbarError, Problem, Severity, SpecError, Unsupported
from drawbar.placement import Placer, check_places
from drawbar.settings import Containers

_LOCAL = "local"
_ENGINE = "docker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A backend, how images are used there, and why."""

    backend: str
    containers: Containers
    why: str = ""

    def __str__(self) -> str:
        return f"runs on {self.backend}: {self.why}"


def choose(placer: Placer, info: WorkflowInfo) -> Choice | None:
    """The choice for the steps that nobody has placed, which `placer` follows from now on.

    None when there is nothing to choose. Raises `Unsupported`, with what is missing and how to get it,
    when an image is required and nothing here can run one.
    """
    steps = _unplaced(placer, info)
    if not steps:
        return None
    named = [step for step in steps if step.image is not None]
    if placer.choice is Containers.NONE or not named:
        why = "images are not used, as asked for" if named else "no step names an image"
        return _take(placer, Choice(backend=_LOCAL, containers=placer.choice, why=why))
    found, missing = _candidates(placer)
    for choice in found:
        _take(placer, choice)
        try:
            check_places(placer, info)
        except SpecError:
            continue
        return choice
    if found:
        return _take(placer, found[0])  # placing says what is wrong
    required = [step for step in named if step.image_required]
    if required:
        message = f"needs the image {required[0].image}, and nothing here can run one: {'; '.join(missing)}"
        hint = (
            "start Docker or Podman, install Apptainer, name a backend with --backend, or run without "
            "images with --no-container"
        )
        raise Unsupported(Problem(message=message, step=required[0].name, hint=hint))
    why = f"images are only hints, and nothing here can run them ({'; '.join(missing)})"
    return _take(placer, Choice(backend=_LOCAL, containers=placer.choice, why=why))


def _unplaced(placer: Placer, info: WorkflowInfo) -> Sequence[StepInfo]:
    """The steps that have jobs, for which nobody names a backend."""
    if placer.settings.names_backend:
        return ()
    found = []
    for step in info.steps:
        try:
            asked = placer.asked(step.name, step.image, step.resources, step.hints)
        except SpecError:
            continue  # placing says what is wrong
        if asked is None and step.jobs != 0:
            found.append(step)
    return found


def _candidates(placer: Placer) -> tuple[list[Choice], list[str]]:
    """What can run images here, best first; and what cannot, and why."""
    found, missing = [], []
    if placer.choice is not Containers.APPTAINER:
        name = placer.settings.named(_ENGINE)
        if problem := _engine_problem(placer, name):
            missing.append(problem)
        else:
            why = "steps name images, and a container engine answers"
            found.append(Choice(backend=name, containers=placer.choice, why=why))
    if placer.choice is not Containers.DOCKER:
        runtime = placer.settings.runtime
        if runtime.missing():
            missing.append(f"the program {runtime.program!r} is not installed")
        else:
            why = f"steps name images, and {runtime.program} runs them"
            why += ", since no container engine answers" if missing else ""
            found.append(Choice(backend=_LOCAL, containers=Containers.APPTAINER, why=why))
    return found, missing


def _engine_problem(placer: Placer, name: str) -> str | None:
    try:
        problems = placer.get(name).check()
    except DrawbarError as error:
        return str(error)
    return next((each.message for each in problems if each.severity is Severity.ERROR), None)


def _take(placer: Placer, choice: Choice) -> Choice:
    placer.follow(choice.backend, choice.containers)
    return choice
