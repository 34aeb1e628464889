"""What can be known to be wrong with a workflow before anything runs: names that mean nothing."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from drawbar.documents import brief
from drawbar.errors import Problem, Severity
from drawbar.options import did_you_mean

from drawbar_yadage import programs
from drawbar_yadage.jobs import needs_a_person
from drawbar_yadage.overview import SIMPLE_PATH, bodies, first_name
from drawbar_yadage.requirements import CREDENTIALS, hints_of, resources_of, unknown
from drawbar_yadage.schemas import parameter_items
from drawbar_yadage.specification import Specification, texts

INITIAL = "init"
"""The stage that yadage itself adds to each scope; it publishes the scope's initial data."""
_NAME = re.compile(r"[\w@+-][\w@.+-]{0,99}")
_RESERVED = frozenset({INITIAL, "_yadage", "_packtivity"})
_FIRST_KEY = re.compile(r"(?:\$\.)?([A-Za-z_]\w*)(?=$|[.\[])")
_EXPRESSIONS = ("stage-output-selector", "fromvalue")
_SELECTORS = ("step", "steps", "stages")
_DOUBLED = "double a brace that is meant for the shell"

Names = frozenset[str] | None
"""Known names, or None when they are known only while the workflow runs."""


@dataclass(slots=True)
class _Scope:
    """The stages that see one another, and the names of their initial data."""

    stages: dict[str, tuple[Mapping[str, Any], str]]
    initial: Names
    used: set[str] = field(default_factory=set)
    """Initial data that some stage selects."""
    everything: bool = False
    """Whether a stage selects all of the initial data."""


def check(specification: Specification, initial: Iterable[str]) -> list[Problem]:
    """Every mistake found, and warnings, in a workflow whose form is right."""
    checker = _Checker(specification)
    names = frozenset(initial)
    scope = checker.scope(specification.value["stages"], "stages", names, "")
    if not scope.everything:
        for name in sorted(names - scope.used):
            checker.warn("", f"parameter {brief(name)} is not used by any stage")
    return checker.problems


class _Checker:
    def __init__(self, specification: Specification) -> None:
        self.problems: list[Problem] = []
        self._specification = specification
        self._step: str | None = None
        self._told: set[tuple[Any, ...]] = set()

    def wrong(self, pointer: str, message: str, hint: str | None = None) -> None:
        """Note a mistake, once for each place in a file."""
        self._note(pointer, message, hint, Severity.ERROR)

    def warn(self, pointer: str, message: str, hint: str | None = None) -> None:
        """Note something that does not stop a run."""
        self._note(pointer, message, hint, Severity.WARNING)

    def _note(self, pointer: str, message: str, hint: str | None, severity: Severity) -> None:
        key = (*self._specification.place(pointer), message)
        if key not in self._told:
            self._told.add(key)
            more = {"hint": hint, "severity": severity, "step": self._step}
            self.problems.append(self._specification.problem(pointer, message, **more))

    def scope(self, stages: list[Any], pointer: str, initial: Names, prefix: str) -> _Scope:
        """Check the stages of a scope, and what they contain."""
        scope = _Scope({}, initial)
        for number, stage in enumerate(stages):
            place = f"{pointer}.{number}"
            self._step = prefix + stage["name"]
            if stage["name"] in scope.stages:
                self.wrong(f"{place}.name", "another stage has the same name")
            self._name(stage["name"], f"{place}.name")
            scope.stages[stage["name"]] = (stage, place)
        for name, (stage, place) in scope.stages.items():
            self._step = prefix + name
            self._conditions(scope, stage, place)
            self._scheduler(scope, stage["scheduler"], f"{place}.scheduler")
            self._bodies(scope, stage, place, prefix)
        self._step = None
        self._cycles(scope)
        return scope

    def _name(self, name: str, pointer: str) -> None:
        if name in _RESERVED:
            self.wrong(pointer, f"{brief(name)} is a name that yadage uses itself", "choose another")
        elif not _NAME.fullmatch(name):
            self.wrong(
                pointer,
                f"{brief(name)} cannot be the name of a directory",
                "use letters, digits and any of _ - . @ +, at most 100",
            )

    # what a stage waits for, and selects

    def _conditions(self, scope: _Scope, stage: Mapping[str, Any], place: str) -> None:
        condition = stage["dependencies"]
        for number, each in enumerate(condition.get("expressions", ())):
            pointer = f"{place}.dependencies.{number}"
            if condition["dependency_type"] == "expressions_fulfilled":
                self._expression(scope, each, pointer)
            elif not isinstance(each, str):
                self.wrong(pointer, f"a dependency is the name of a stage, not {brief(each)}")
            else:
                self._path(scope, each, pointer)

    def _scheduler(self, scope: _Scope, scheduler: Mapping[str, Any], place: str) -> None:
        keys = set()
        reachable = self._reachable(scope)
        for key, value, rest in parameter_items(scheduler.get("parameters")):
            keys.add(key)
            if isinstance(value, Mapping) and "expression_type" in value:
                pointer = f"{place}.parameters.{rest}"
                self._expression(scope, value, pointer)
                for name in _mentioned(value):
                    if name in scope.stages and name not in reachable:
                        self.warn(
                            pointer,
                            f"selects from stage {name!r} without depending on it",
                            f"add {name!r} to its dependencies",
                        )
        for key, value in (scheduler.get("register_values") or {}).items():
            self._expression(scope, value, f"{place}.register_values.{key}")
        scatter = scheduler.get("scatter")
        if scheduler["scheduler_type"] == "multistep-stage":
            if not isinstance(scatter, Mapping) or not scatter.get("parameters"):
                self.wrong(place, "a multistep-stage needs 'scatter' with 'method' and 'parameters'")
                return
            if scatter.get("method") not in ("zip", "cartesian"):
                message = (
                    f"the method of a scatter is 'zip' or 'cartesian', not {brief(scatter.get('method'))}"
                )
                self.wrong(f"{place}.scatter.method", message)
            for number, name in enumerate(scatter["parameters"]):
                if name not in keys:
                    message = f"scatters over {brief(name)}, which is no parameter of it"
                    self.wrong(f"{place}.scatter.parameters.{number}", message, did_you_mean(str(name), keys))
            if scheduler.get("batchsize") and scheduler.get("partitionsize"):
                self.wrong(f"{place}.partitionsize", "'batchsize' and 'partitionsize' exclude each other")
        elif scheduler["scheduler_type"] == "jq-stage":
            scope.everything = True  # its programs may look at anything
            for key in ("stepscript", "postscript"):
                self._program(scheduler[key], f"{place}.{key}")

    def _reachable(self, scope: _Scope) -> set[str]:
        """The stages that the stage being checked waits for, and those that they wait for."""
        assert self._step is not None
        own = self._step.rpartition("/")[2]
        reached: set[str] = set()
        pending = [own]
        while pending:
            stage = scope.stages.get(pending.pop())
            for name in _conditions(stage[0]) if stage else ():
                if name not in reached:
                    reached.add(name)
                    pending.append(name)
        return reached

    def _expression(self, scope: _Scope, value: Any, pointer: str) -> None:
        kind = value.get("expression_type") if isinstance(value, Mapping) else None
        if kind not in _EXPRESSIONS:
            self.wrong(
                pointer,
                f"an expression has an 'expression_type', one of: {', '.join(_EXPRESSIONS)}"
                if kind is None
                else f"unknown expression_type {brief(kind)}",
                did_you_mean(str(kind), _EXPRESSIONS) if kind else None,
            )
            return
        if kind == "fromvalue":
            if "key" not in value:
                self.wrong(pointer, "the expression 'fromvalue' needs a 'key'")
            if "scope" in value:
                self._path(scope, value["scope"], f"{pointer}.scope")
            return
        given = [key for key in _SELECTORS if key in value]
        if len(given) != 1:
            self.wrong(pointer, f"a selector has one of 'step' and 'stages', not {brief(sorted(value))}")
            return
        if not isinstance(value[given[0]], str):
            self.wrong(f"{pointer}.{given[0]}", f"is the name of a stage, not {brief(value[given[0]])}")
            return
        for name, outputs, what in self._path(scope, value[given[0]], f"{pointer}.{given[0]}"):
            self._output(scope, name, outputs, what, value.get("output"), f"{pointer}.output")

    def _path(self, scope: _Scope, path: Any, pointer: str) -> list[tuple[str, Names, str]]:
        """Follow a path of stages; returns for each stage it means its name, outputs, and what those are."""
        if not isinstance(path, str) or not SIMPLE_PATH.fullmatch(path):
            try:
                programs.jsonpath(path)
            except Exception as error:  # the parser raises whatever its library raises
                self.wrong(pointer, f"{brief(path)} is no JSONPath: {str(error)[:100]}")
            scope.everything = True
            return []
        name, rest = first_name(path), path.partition(".")[2]
        if name == INITIAL and name not in scope.stages:
            return [(name, scope.initial, "initial parameter")] if not rest else []
        if name not in scope.stages:
            known = [*scope.stages, INITIAL]
            self.wrong(pointer, f"there is no stage {brief(name)}", did_you_mean(name, known))
            return []
        stage = scope.stages[name][0]
        parts = [body for _, body in bodies(stage["scheduler"], "")]
        inner = [body["workflow"]["stages"] for body in parts if "workflow" in body]
        if not rest:
            if len(inner) == len(parts):
                return [
                    (name, frozenset(key for each in inner for key in _registered(each)), "registered value")
                ]
            return [(name, _outputs(parts), "output")]
        if not inner:
            self.wrong(pointer, f"stage {brief(name)} is no sub-workflow, so there is no {brief(path)}")
            return []
        found = []
        for stages in inner:
            below = _Scope({each["name"]: (each, "") for each in stages}, None)
            found += self._path(below, rest, pointer)
        return found

    def _output(self, scope: _Scope, name: str, outputs: Names, what: str, output: Any, pointer: str) -> None:
        if output is None:
            scope.everything = scope.everything or name == INITIAL
            return
        match = _FIRST_KEY.match(str(output))
        if match is None:
            scope.everything = True
            return
        key = match[1]
        if name == INITIAL:
            scope.used.add(key)
        if outputs is not None and key not in outputs and output not in outputs:
            of = "" if name == INITIAL else f" of stage {name!r}"
            self.wrong(
                pointer, f"there is no {what} {brief(key)}{of}", did_you_mean(key, outputs) or "there is none"
            )

    def _cycles(self, scope: _Scope) -> None:
        done: set[str] = set()
        for start in scope.stages:
            trail: list[str] = []
            pending = [(start, iter([*_conditions(scope.stages[start][0])]))]
            while pending:
                name, rest = pending[-1]
                if name not in done and name not in trail:
                    trail.append(name)
                following = next((each for each in rest if each in scope.stages and each not in done), None)
                if following is None:
                    pending.pop()
                    done.add(name)
                    trail = trail[:-1]
                elif following in trail:
                    names = " → ".join([*trail[trail.index(following) :], following])
                    self.wrong(scope.stages[following][1], f"stages wait for one another: {names}")
                    return
                else:
                    pending.append((following, iter([*_conditions(scope.stages[following][0])])))

    # what a stage runs

    def _bodies(self, scope: _Scope, stage: Mapping[str, Any], place: str, prefix: str) -> None:
        scheduler, pointer = stage["scheduler"], f"{place}.scheduler"
        given = [key for key in ("step", "workflow", "cases") if key in scheduler]
        if len(given) != 1:
            what = " and ".join(map(repr, given)) if given else "none of them"
            self.wrong(pointer, f"a stage has one of 'step', 'workflow' and 'cases', not {what}")
            return
        keys: Names = None
        if scheduler["scheduler_type"] != "jq-stage":
            keys = frozenset(key for key, _, _ in parameter_items(scheduler.get("parameters")))
        used: set[str] | None = set()
        for where, body in bodies(scheduler, pointer):
            if "if" in body:
                self._program(body["if"], f"{where}.if")
                used = None
            if "workflow" in body:
                step, used = self._step, None
                self.scope(body["workflow"]["stages"], f"{where}.workflow.stages", keys, f"{step}/")
                self._step = step
            elif "step" in body:
                taken = self._body(body["step"], f"{where}.step", keys)
                used = used | taken if used is not None and taken is not None else None
            else:
                self.wrong(where, "a case has one of 'step' and 'workflow'")
        if used is not None and keys is not None:
            for key, _, rest in parameter_items(scheduler.get("parameters")):
                if key not in used:
                    self.warn(
                        f"{pointer}.parameters.{rest}",
                        f"parameter {key!r} is not used by the step",
                        did_you_mean(key, used),
                    )

    def _body(self, step: Mapping[str, Any], pointer: str, keys: Names) -> set[str] | None:
        """Check a step; returns the parameters that it uses, None when that cannot be told."""
        process, environment, publisher = step["process"], step["environment"], step["publisher"]
        if needs_a_person(step):
            self.wrong(pointer, "asks for somebody to do something by hand, which no run can wait for")
            return None
        used: set[str] = set()
        opaque = False
        if process:
            key = "cmd" if "cmd" in process else "script"
            used |= self._placeholders(process[key], f"{pointer}.process.{key}", keys, frozenset())
        kind = publisher["publisher_type"]
        if kind == "frompar-pub":
            for name in texts(publisher["outputmap"]):
                used.add(name)
                if keys is not None and name not in keys:
                    where = f"{pointer}.publisher.outputmap"
                    self.wrong(
                        where,
                        f"publishes {brief(name)}, which is no parameter of it",
                        did_you_mean(name, keys),
                    )
        elif kind == "interpolated-pub":
            for text in texts(publisher["publish"]):
                where = f"{pointer}.publisher.publish"
                used |= self._placeholders(text, where, keys, frozenset({"workdir"}))
        elif kind == "fromparjq-pub":
            self._program(publisher["script"], f"{pointer}.publisher.script")
            opaque = True
        self._resources(environment or {}, f"{pointer}.environment.resources")
        for number, each in enumerate((environment or {}).get("par_mounts", ())):
            where, opaque = f"{pointer}.environment.par_mounts.{number}", True
            for key in ("mountpath", "jqscript"):
                if key not in each:
                    self.wrong(where, f"a parameter mount needs a {key!r}")
            self._program(each.get("jqscript", "."), f"{where}.jqscript")
            if not str(each.get("mountpath", "/")).startswith("/"):
                self.wrong(f"{where}.mountpath", "the place of a parameter mount is an absolute path")
        return None if opaque else used

    def _resources(self, environment: Mapping[str, Any], pointer: str) -> None:
        try:
            resources_of(environment)
        except ValueError as error:
            self.wrong(pointer, str(error))
        for number, word in unknown(environment):
            self.warn(f"{pointer}.{number}", f"unknown resource {brief(word)}, left to the backend")
        for key in CREDENTIALS.values():
            if hints_of(environment).get(key) is True:
                hint = "jobs have those of the session they run in"
                self.warn(pointer, f"asks for {key}, and drawbar provides no credentials of its own", hint)

    def _placeholders(self, text: str, pointer: str, keys: Names, more: frozenset[str]) -> set[str]:
        try:
            names = {re.split(r"[.\[]", name)[0] for name in _fields(text)}
        except ValueError as error:
            self.wrong(pointer, f"cannot be filled in: {error}", _DOUBLED)
            return set()
        for name in sorted(names):
            if keys is None or name in keys | more:
                continue
            if name == "workdir":
                hint: str | None = "add the parameter  workdir: '{workdir}'"
            else:
                hint = did_you_mean(name, keys)
                hint = f"{hint}; or {_DOUBLED}" if hint else _DOUBLED
            self.wrong(pointer, f"uses {{{name}}}, which is no parameter of it", hint)
        return names

    def _program(self, text: Any, pointer: str) -> None:
        try:
            programs.jq(text)
        except (ValueError, TypeError, AttributeError) as error:
            self.wrong(pointer, f"{brief(text)} is no jq program: {str(error).splitlines()[0][:200]}")


def _conditions(stage: Mapping[str, Any]) -> Iterator[str]:
    """The names of the stages that a stage waits for."""
    for each in stage["dependencies"].get("expressions", ()):
        if isinstance(each, str):
            yield first_name(each)
        elif isinstance(each, Mapping):
            yield from _mentioned(each)


def _mentioned(selector: Mapping[str, Any]) -> Iterator[str]:
    yield from (first_name(selector[key]) for key in _SELECTORS if isinstance(selector.get(key), str))


def _fields(text: str) -> Iterator[str]:
    for _, name, form, _ in string.Formatter().parse(text):
        if name is not None:
            yield name
        if form:
            yield from _fields(form)


def _outputs(parts: list[Mapping[str, Any]]) -> Names:
    """The names that the steps of a stage publish."""
    found: set[str] = set()
    for body in parts:
        publisher = body["step"]["publisher"] if "step" in body else {}
        published = publisher.get("outputmap", publisher.get("publish"))
        if publisher.get("publisher_type") == "fromglob-pub":
            found.add(publisher["outputkey"])
        elif isinstance(published, Mapping):
            found |= published.keys()
        else:
            return None
    return frozenset(found)


def _registered(stages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for stage in stages:
        yield from stage["scheduler"].get("register_values") or ()
