"""A workflow engine in one file: recipes that say which file is made of which, and how.

    # report.recipes
    squares.txt: numbers.txt
        awk '{ print $1 * $1 }' numbers.txt > squares.txt

A recipe is a line `target: what it needs`, and indented lines with the command that makes it. Every
recipe is a step with one job; recipes that do not need one another run at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from drawbar import hookimpl
from drawbar.engine import (
    Engine,
    EngineFeature,
    Executed,
    JobClient,
    Lookup,
    Source,
    StepFailed,
    StepInfo,
    Ticket,
    WorkflowInfo,
)
from drawbar.errors import Problem, SpecError
from drawbar.model import Input, JobSpec, Outputs


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    return [RecipesEngine]


@dataclass(frozen=True, slots=True)
class Recipe:
    target: str
    needs: tuple[str, ...]
    command: str
    line: int


class RecipesEngine(Engine):
    name = "recipes"
    api = 1
    features = frozenset({EngineFeature.UNTIL, EngineFeature.INSPECT_WITHOUT_EXECUTION})

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".recipes" and path.is_file()

    def inspect(self, source: Source) -> WorkflowInfo:
        recipes = read(source)
        return WorkflowInfo(
            steps=tuple(
                StepInfo(
                    name=recipe.target,
                    commands=(recipe.command,),
                    depends_on=tuple(name for name in recipe.needs if name in recipes),
                    inputs=tuple(name for name in recipe.needs if name not in recipes),
                    outputs=(recipe.target,),
                    line=recipe.line,
                )
                for recipe in recipes.values()
            ),
            outputs=results(recipes),
        )

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        recipes = read(source)
        jobs.progress(len(recipes))
        waiting = dict(recipes)
        running: dict[str, Ticket] = {}
        while waiting or running:
            # A recipe is ready when nothing that it needs is still to be made.
            ready = [
                recipe
                for recipe in waiting.values()
                if not any(name in waiting or name in running for name in recipe.needs)
            ]
            specs = [job(recipe, jobs) for recipe in ready]
            for spec, ticket in zip(specs, jobs.submit(specs, prepare=make_room), strict=True):
                del waiting[spec.identity]
                if ticket.found is not Lookup.HIT:  # a hit was made in an earlier start of the run
                    running[spec.identity] = ticket
            if running:
                ended = jobs.wait()
                assert ended is not None, "a job is in flight"
                del running[ended.ticket.identity]
                failure = settle(ended, jobs)
                if failure is not None:
                    jobs.cancel(running.values())
                    while (other := jobs.wait()) is not None:
                        settle(other, jobs)
                    target = ended.ticket.identity
                    raise StepFailed(target, f"{target}: {failure}", ended.result)
        return Outputs(files=results(recipes))


def job(recipe: Recipe, jobs: JobClient) -> JobSpec:
    placement = jobs.place(step=recipe.target)
    return JobSpec(
        identity=recipe.target,
        name=recipe.target,
        step=recipe.target,
        argv=("sh", "-c", recipe.command),
        directory=str(jobs.workspace),
        # What determines the result: the command, and the contents of what it needs.
        canonical={"command": recipe.command},
        inputs=tuple(Input(path=str(jobs.workspace / name), name=name) for name in recipe.needs),
        outputs=(str(jobs.workspace / recipe.target),),
        resources=placement.resources,
        hints=placement.hints,
        backend=placement.backend,
    )


def make_room(spec: JobSpec) -> None:
    """Called for a job that is about to run, and never for one that is remembered."""
    Path(spec.outputs[0]).parent.mkdir(parents=True, exist_ok=True)


def settle(ended: Executed, jobs: JobClient) -> str | None:
    """Accept a job that made its target: from now on it is remembered. Else say what went wrong."""
    target = ended.ticket.identity
    if not ended.result.ok:
        return ended.result.message or f"its command ended with exit code {ended.result.exit_code}"
    if (jobs.workspace / target).exists():
        jobs.accept(ended.ticket)
        return None
    failure = "its command did not make it"
    jobs.reject(ended.ticket, failure)
    return failure


def results(recipes: Mapping[str, Recipe]) -> tuple[str, ...]:
    needed = {name for recipe in recipes.values() for name in recipe.needs}
    return tuple(name for name in recipes if name not in needed)


def read(source: Source) -> dict[str, Recipe]:
    """The recipes by target, in an order in which they can be made; every mistake at once."""
    if source.file is None:
        raise SpecError("recipes are in a file of their own")
    path = source.root / source.file
    problems: list[Problem] = []

    def wrong(line: int | None, message: str) -> None:
        problems.append(Problem(message=message, file=str(path), line=line))

    recipes: dict[str, Recipe] = {}
    target = ""
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        if not text.strip() or text.startswith("#"):
            continue
        if text[0].isspace() and not target:
            wrong(line, "a command without a target")
        elif text[0].isspace():
            recipes[target] = replace(recipes[target], command=f"{recipes[target].command}{text.strip()}\n")
        else:
            target, colon, needs = (part.strip() for part in text.partition(":"))
            if not colon:
                wrong(line, f"expected 'target: what it needs', not {text!r}")
            if target in recipes:
                wrong(line, f"{target!r} has a recipe in line {recipes[target].line} already")
            for name in (target, *needs.split()):
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    wrong(line, f"{name!r} leads out of the workspace")
            recipes[target] = Recipe(target, tuple(needs.split()), "", line)

    ordered: dict[str, Recipe] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            wrong(recipes[name].line, f"{name!r} is needed to make itself")
        elif name in recipes and name not in ordered:
            for need in recipes[name].needs:
                visit(need, (*above, name))
            ordered[name] = recipes[name]
        elif name not in recipes and not (source.root / name).exists():
            wrong(
                recipes[above[-1]].line if above else None,
                f"no recipe makes {name!r}, and there is no such file",
            )

    for name in recipes if source.until is None else [source.until]:
        visit(name, ())
    if problems:
        raise SpecError(problems)
    return ordered
