"""Makes jobs of yadage's nodes: what is executed, in which environment, and what its result depends on."""

# Paths of a specification are texts, and stay so.
# ruff: noqa: PTH103, PTH112, PTH118, PTH206
from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawbar.closure import Closure
from drawbar.engine import JobClient, Placement
from drawbar.errors import Problem, SpecError, Unsupported
from drawbar.model import Input, JobSpec, Mount

from drawbar_yadage import programs
from drawbar_yadage.publishing import PublishError
from drawbar_yadage.requirements import hints_of, image_of, mounts_of, resources_of
from drawbar_yadage.states import State, fill, inside
from drawbar_yadage.values import Values

_METADATA = "_yadage"


@dataclass(frozen=True, slots=True)
class Action:
    """What a node executes. `command` is a shell command; `script` is given to it as standard input."""

    command: str
    script: str | None
    directory: str
    files: tuple[tuple[str, str], ...]
    """Where files made of parameters shall be, and their content."""

    @property
    def text(self) -> str:
        """What the user wrote, filled in."""
        return self.command if self.script is None else self.script


class JobMaker:
    """Makes the jobs of one run. `closure` knows the source files, which are unchanged in `definition`."""

    def __init__(
        self,
        jobs: JobClient,
        definition: Path,
        closure: Closure,
        sources: Iterable[str],
        stages: Iterable[str],
    ) -> None:
        self._jobs = jobs
        self._workspace = str(jobs.workspace)
        self._definition = definition
        self._closure = closure
        self._sources = sorted(sources)
        names = "|".join(map(re.escape, sorted(stages)))
        self._own = re.compile(rf"(?:{names})(?:_\d+)?|{_METADATA}") if names else re.compile(_METADATA)
        self._placements: dict[int, Placement] = {}
        self._actions: dict[str, Action] = {}
        self._written: dict[str, str] = {}
        """Directories that steps write, with their paths relative to the workspace."""
        self._embedded = re.compile(rf"(?<![\w./~-]){re.escape(self._workspace)}(?![\w.-])")

    def hidden(self, path: str) -> bool:
        """Whether a path is what a run makes in the workspace: no part of its initial data."""
        if not inside(path, self._workspace):
            return False
        relative = os.path.relpath(path, self._workspace)
        return self._own.fullmatch(relative.split(os.sep)[0]) is not None and not self._is_source(relative)

    def spec(self, node: Any) -> JobSpec:
        """The job of a node. Raises `PublishError` when its command cannot be made of its parameters."""
        task, state, values = node.task, node.task.state, node.final
        environment = task.spec["environment"]
        stage, name = self.named(node)
        placement = self._place(stage, task.spec)
        action = self._actions[name] = make_action(task.spec, values, state, self._workspace)
        if action.files and not placement.container:
            message = f"its par_mounts want {action.files[0][0]}, which takes a container"
            raise Unsupported(Problem(message=message, step=stage, hint="choose a backend that has them"))
        self._check_directory(stage, name)
        self._written[state.workdir] = name
        identity = node.identity = "/".join(
            str(task.metadata[key]) for key in ("wflow_offset", "wflow_stage", "wflow_stage_node_idx")
        ).lstrip("/")
        return JobSpec(
            identity=identity,
            name=name,
            step=stage,
            argv=("sh", "-c", action.command),
            directory=action.directory,
            canonical=self._canonical(task.spec, values, state, placement),
            image=placement.image if placement.container else None,
            image_required=placement.container,
            environment={
                **{key: str(value) for key, value in environment.get("env", {}).items()},
                "REANA_WORKSPACE": self._workspace,
                "REANA_WORKFLOW_UUID": self._jobs.run_id,
            },
            mounts=tuple(self._mounts(identity, environment, state, action)) if placement.container else (),
            stdin=None if action.script is None else str(self._jobs.directory(identity) / "script"),
            inputs=tuple(self._inputs(state, action)),
            outputs=(state.workdir,),
            resources=placement.resources,
            hints=placement.hints,
            backend=placement.backend,
        )

    def prepare(self, spec: JobSpec) -> None:
        """Make the job's directory, empty by now, and the files that are made of its parameters."""
        os.makedirs(spec.outputs[0])
        action = self._actions[spec.name]
        if action.script is None and not action.files:
            return
        private = self._jobs.directory(spec.identity)
        private.mkdir(parents=True, exist_ok=True)
        if action.script is not None:
            (private / "script").write_text(action.script)
        for number, (_, content) in enumerate(action.files):
            (private / f"parameters{number}").write_text(content)

    def named(self, node: Any) -> tuple[str, str]:
        """The stage of a node, `sub/map`, and its own name, `sub_0/map_3`."""
        from drawbar_yadage.driver import stage_of_node

        stage, workdir = stage_of_node(node), node.task.state.workdir
        return stage, stage if workdir is None else workdir.removeprefix(f"{self._workspace}/")

    def described(self, node: Any) -> tuple[str, str]:
        """The name of a node, and its command."""
        name = self.named(node)[1]
        return name, self._actions[name].text

    def _place(self, stage: str, spec: Mapping[str, Any]) -> Placement:
        known = self._placements.get(id(spec))
        if known is None:
            environment = spec["environment"]
            known = self._placements[id(spec)] = self._jobs.place(
                step=stage,
                image=image_of(environment),
                image_required=image_of(environment) is not None,
                resources=resources_of(environment),
                hints=hints_of(environment),
            )
        return known

    def _canonical(self, spec: Mapping[str, Any], values: Values, state: State, placement: Placement) -> Any:
        """What determines the result, besides contents of files: the same in every workspace."""
        values = values.map_text(self._placeholder)
        state = State(
            state.name, *(map(self._placeholder, each) for each in (state.readwrite, state.readonly))
        )
        action = make_action(spec, values, state, "<workspace>")
        return {
            "command": action.command,
            "script": action.script,
            "files": action.files,
            "directory": [action.directory, state.workdir],
            "environment": spec["environment"].get("env", {}),
            "image": image_of(spec["environment"]),
            "container": placement.container,
            "parameters": values.json(),
            "publisher": spec["publisher"],
        }

    def _placeholder(self, text: str) -> str:
        return self._embedded.sub("<workspace>", text) if self._workspace in text else text

    def _inputs(self, state: State, action: Action) -> Iterator[Input]:
        texts = [action.text, action.command, *(content for _, content in action.files)]
        for name in self._closure.inputs_of(texts):
            yield Input(path=str(self._definition / name), name=name)
        for path in state.readonly:
            if path in self._written:
                yield Input(path=path, name=self._written[path])

    def _mounts(
        self, identity: str, environment: Mapping[str, Any], state: State, action: Action
    ) -> Iterator[Mount]:
        """What the container of a job sees besides the workspace, or other than the workspace has it."""
        private = self._jobs.directory(identity)
        yield from mounts_of(environment)
        if action.script is not None:
            yield Mount(source=str(private), target=str(private), read_only=True)
        for path in state.readonly:
            if path == self._workspace or inside(str(state.workdir), path):
                continue
            if os.path.isdir(path):  # an initial directory need not exist, nor that of a step without a job
                yield Mount(source=path, target=path, read_only=True)
        for number, (target, _) in enumerate(action.files):
            yield Mount(source=str(private / f"parameters{number}"), target=target, read_only=True)

    def _check_directory(self, stage: str, relative: str) -> None:
        """A step's directory is cleared before it runs, so nothing of the user's may be in it."""
        if self._is_source(relative):
            message = f"writes to the directory {relative}, which is part of the analysis"
            raise SpecError(Problem(message=message, step=stage, hint="rename the stage or the directory"))

    def _is_source(self, relative: str) -> bool:
        return any(inside(name, relative) or inside(relative, name) for name in self._sources)


def runs_a_command(spec: Mapping[str, Any]) -> bool:
    """Whether a step executes anything; else it only publishes."""
    process, environment = spec["process"], spec["environment"]
    if not process or not environment or needs_a_person(spec):
        return False
    return bool(environment["environment_type"] != "noop-env")


def needs_a_person(spec: Mapping[str, Any]) -> bool:
    """Whether somebody has to do something by hand."""
    kinds = ((spec[part] or {}).get(f"{part}_type", "") for part in ("process", "environment", "publisher"))
    return any(kind.startswith("manual") for kind in kinds)


def make_action(spec: Mapping[str, Any], values: Values, state: State, workspace: str) -> Action:
    """What a step executes with these parameters. Raises `PublishError` when it cannot be made of them."""
    process, environment = spec["process"], spec["environment"]
    script = None
    if process["process_type"] == "interpolated-script-cmd":
        script, command = interpolate(process["script"], values), process["interpreter"]
    else:
        command = interpolate(process["cmd"], values)
    if environment.get("envscript"):
        command = f". {environment['envscript']} && {command}"
    directory = environment.get("workdir")
    if directory is not None:
        directory = fill(directory, state.dirnames)
    elif environment["environment_type"] == "localproc-env":
        directory = state.workdir
    directory = directory or workspace
    if not directory.startswith(("/", workspace)):
        directory = os.path.join(workspace, directory)
    files = tuple(
        (each["mountpath"], programs.jq(each["jqscript"]).transform(values.json(), text_output=True))
        for each in environment.get("par_mounts", ())
    )
    return Action(command, script, directory, files)


def interpolate(template: str, values: Values) -> str:
    """A template with parameters filled in, as `str.format` does; lists are joined by blanks."""
    given = values.json()
    try:
        if isinstance(given, dict):
            return template.format(**{key: _joined(value) for key, value in given.items()})
        if isinstance(given, list):
            return template.format(*map(_joined, given))
        return template.format(value=given)
    except KeyError as error:
        known = ", ".join(given) if isinstance(given, dict) else "none by name"
        raise PublishError(
            f"its command uses {{{error.args[0]}}}, which is no parameter of it (there are: {known}; "
            "a brace that is meant for the shell is doubled)"
        ) from error
    except (IndexError, ValueError, AttributeError) as error:
        raise PublishError(
            f"its command cannot be filled in: {error} (a brace that is meant for the shell is doubled)"
        ) from error


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value
