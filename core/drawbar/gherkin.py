"""Feature files: the tests that an analysis declares for its own results (`tests.files`).

`load_features` reads and understands all of them before anything is tested; `evaluate` tests a run.
The language is Gherkin, parsed by its reference parser; the sentences are those of `drawbar.checks.forms`.
"""

from __future__ import annotations

import difflib
import errno
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from drawbar.checks.evidence import Check, Evidence, Failed, NotApplicable
from drawbar.checks.forms import FORMS, Kind, understand
from drawbar.errors import Problem, SpecError

__all__ = [
    "Evidence",
    "Feature",
    "Outcome",
    "Scenario",
    "ScenarioResult",
    "Step",
    "evaluate",
    "load_features",
]

_LARGEST_FILE = 1 << 18
_LARGEST_EXPANSION = 1 << 24
_MOST_PROBLEMS = 100
_KINDS = {"Context": Kind.CONDITION, "Action": Kind.CONDITION, "Outcome": Kind.EXPECTATION}
_PLACES = {Kind.CONDITION: ("a condition", "Given or When"), Kind.EXPECTATION: ("an expectation", "Then")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of a scenario. `text` holds its doc-string, if any, in double quotes at the end."""

    kind: Kind
    text: str
    line: int
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The steps of a scenario, those of its background first; each row of an outline is one scenario."""

    name: str
    line: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A feature file that was understood as a whole."""

    name: str
    file: str
    scenarios: tuple[Scenario, ...]


class Outcome(StrEnum):
    """What came of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # its condition does not hold for this run


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioResult:
    """What came of a scenario, with the step that decided it.

    `message` names what was expected and what was found, or why the scenario was skipped; it is
    empty when it passed. `line` is that of the deciding step, or of the scenario when it passed.
    """

    feature: str
    scenario: str
    outcome: Outcome
    message: str
    file: str
    line: int
    duration_s: float

    @property
    def passed(self) -> bool:
        """Whether every step held. A skipped scenario has neither passed nor failed."""
        return self.outcome is Outcome.PASSED


def load_features(paths: Sequence[Path]) -> list[Feature]:
    """The features of the files, in order.

    Raises `SpecError` with every problem of every file, up to a hundred, each with its line:
    unreadable, not Gherkin, a sentence that is not understood, an argument that makes no sense, a
    scenario that tests nothing.
    """
    problems = _Problems()
    features = [feature for path in paths if (feature := _load(path, problems))]
    problems.check()
    return features


def evaluate(features: Sequence[Feature], evidence: Evidence) -> list[ScenarioResult]:
    """One result per scenario, in order. A scenario ends at the first step that does not hold.

    Reads the run and changes nothing. Evidence that cannot be read fails the scenario that needs it.
    """
    return [_run(feature, scenario, evidence) for feature in features for scenario in feature.scenarios]


class _Problems:
    """What is wrong with the files, each thing once: outlines and backgrounds repeat their steps."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, path: Path, line: int | None, message: str, hint: str | None = None) -> None:
        problem = Problem(message=message, file=str(path), line=line, hint=hint)
        if problem not in self._found:
            self._found.append(problem)
        if len(self._found) >= _MOST_PROBLEMS:
            self.check()

    def check(self) -> None:
        if self._found:
            raise SpecError(self._found)


def _run(feature: Feature, scenario: Scenario, evidence: Evidence) -> ScenarioResult:
    began = time.monotonic()
    outcome, message, line = Outcome.PASSED, "", scenario.line
    for step in scenario.steps:
        try:
            step.check(evidence)
            continue
        except NotApplicable as reason:
            outcome, message = Outcome.SKIPPED, str(reason)
        except Failed as failure:
            outcome, message = Outcome.FAILED, str(failure)
        except OSError as error:
            outcome, message = Outcome.FAILED, f"cannot read what it tests: {error}"
        line = step.line
        break
    return ScenarioResult(
        feature=feature.name,
        scenario=scenario.name,
        outcome=outcome,
        message=message,
        file=feature.file,
        line=line,
        duration_s=time.monotonic() - began,
    )


def _load(path: Path, problems: _Problems) -> Feature | None:
    # Imported here: most commands never see a feature file.
    from gherkin.errors import CompositeParserException, ParserException
    from gherkin.parser import Parser
    from gherkin.pickles.compiler import Compiler, GherkinDocumentWithURI

    text = _read(path, problems)
    if text is None:
        return None
    try:
        document = Parser().parse(text)
    except CompositeParserException as failure:
        for error in failure.errors:
            problems.add(path, error.location["line"], _syntax(error))
        return None
    except ParserException as error:
        problems.add(path, error.location["line"], _syntax(error))
        return None
    feature = document.get("feature")
    if not feature:
        problems.add(path, None, "the file has no Feature")
        return None
    line, language = feature["location"]["line"], feature["language"]
    if language != "en":
        problems.add(path, line, f"feature files are read in English, not in language {language!r}")
        return None
    if _expansion(feature["children"]) > _LARGEST_EXPANSION:
        problems.add(path, line, "the outlines expand to too many scenarios")
        return None
    lines = dict(_line_numbers(feature))
    pickles = Compiler().compile(GherkinDocumentWithURI(uri=str(path), **document))
    if not pickles:
        problems.add(path, line, "the feature has no scenario")
    scenarios = [_scenario(pickle, lines, path, problems) for pickle in pickles]
    return Feature(name=feature["name"], file=str(path), scenarios=tuple(scenarios))


def _read(path: Path, problems: _Problems) -> str | None:
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is not a regular file")
        with path.open("rb") as stream:
            content = stream.read(_LARGEST_FILE + 1)
        if len(content) <= _LARGEST_FILE:
            return content.decode("utf-8-sig").replace("\r\n", "\n")
        reason = f"is larger than {_LARGEST_FILE} bytes"
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 text (byte {error.start})"
    problems.add(path, None, f"the feature file {reason}")
    return None


def _syntax(error: Exception) -> str:
    """The parser's message without its position and its marks for kinds of line."""
    message = re.sub(r"^\(\d+:\d+\): ", "", str(error))
    return f"not Gherkin: {re.sub('#(?=[A-Z])', '', message)}"


def _expansion(children: Sequence[Any], background: int = 0) -> int:
    """At most how many characters the scenarios have, with each row of an outline filled in."""
    total = 0
    for child in children:
        if "rule" in child:
            total += _expansion(child["rule"]["children"], background)
        elif "background" in child:
            background += len(repr(child["background"]["steps"]))
        else:
            scenario = child["scenario"]
            steps = repr((scenario["name"], scenario["steps"]))
            rows = [row["cells"] for examples in scenario["examples"] for row in examples["tableBody"]]
            longest = max((len(cell["value"]) for cells in rows for cell in cells), default=0)
            total += max(1, len(rows)) * (background + len(steps) + steps.count("<") * longest)
    return total


def _line_numbers(node: Any) -> Iterator[tuple[str, int]]:
    """The line of every node of a parsed feature that has an id."""
    if isinstance(node, Mapping):
        if "id" in node:
            yield node["id"], node["location"]["line"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from _line_numbers(each)


def _scenario(pickle: Any, lines: Mapping[str, int], path: Path, problems: _Problems) -> Scenario:
    steps = []
    for pickled in pickle["steps"]:
        line = lines[pickled["astNodeIds"][0]]
        try:
            steps.append(_step(pickled, line))
        except _Misunderstood as reason:
            problems.add(path, line, str(reason), reason.hint)
    line = lines[pickle["astNodeIds"][0]]
    if len(steps) == len(pickle["steps"]) and all(step.kind is Kind.CONDITION for step in steps):
        hint = "a line that starts with no known keyword is only a description"
        problems.add(path, line, "the scenario tests nothing", hint)
    return Scenario(name=pickle["name"], line=line, steps=tuple(steps))


class _Misunderstood(Exception):
    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _step(step: Mapping[str, Any], line: int) -> Step:
    text, argument = step["text"], step.get("argument", {})
    if "dataTable" in argument:
        raise _Misunderstood(f"no step takes a table: {text}")
    if "docString" in argument:
        text = f'{text} "{argument["docString"]["content"]}"'
    try:
        parsed = understand(text)
    except ValueError as error:
        raise _Misunderstood(f"wrong argument: {error}") from error
    if parsed is None:
        raise _Misunderstood(f"unknown step: {step['text']}", _suggestion(step["text"], step["type"]))
    form, check = parsed
    if _KINDS.get(step["type"], form.kind) is not form.kind:
        what, where = _PLACES[form.kind]
        raise _Misunderstood(f"this is {what}: {step['text']}", f"write it under {where}")
    return Step(kind=form.kind, text=text, line=line, check=check)


def _suggestion(text: str, step_type: str) -> str | None:
    kind = _KINDS.get(step_type)
    templates = {
        re.sub(r"\{\w+\}", "", form.template): form.template for form in FORMS if kind in (None, form.kind)
    }
    plain = re.sub(r'".*"', "", text)
    close = difflib.get_close_matches(plain[:200], templates, n=1, cutoff=0.5)
    return f"did you mean: {templates[close[0]]}?" if close else None
