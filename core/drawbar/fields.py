"""Reads the fields of an analysis file, and collects what is wrong with them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from drawbar.documents import Document, brief
from drawbar.errors import Problem, Severity, SpecError
from drawbar.paths import existing, normal

MOST_PATHS = 1000
"""Entries of one list of paths."""

_STEP = re.compile(r"workflow\.specification\.steps\.(\d+)\b")
_T = TypeVar("_T", str, list[Any], dict[str, Any])


@dataclass(slots=True)
class Fields:
    """The fields of `document`, which describes what is in the directory `root`.

    Each method answers with what is right, and adds a problem with file, line and pointer to
    `problems` for what is not; so one reading finds every mistake.
    """

    document: Document
    root: Path
    problems: list[Problem] = field(default_factory=list)

    def get(self, pointer: str, kind: type[_T]) -> _T:
        """The value at a place when it is of that type, else an empty one. The schema tells what is wrong."""
        value = self.document.value
        for key in pointer.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, kind) else kind()

    def has(self, pointer: str) -> bool:
        """Whether the document says anything at that place."""
        return pointer in self.document.lines

    def line(self, pointer: str) -> int | None:
        """The line of a place, counted from 1."""
        return self.document.lines.get(pointer)

    def paths(self, pointer: str, kind: str | None = None) -> tuple[str, ...]:
        """The paths of a list that are right, in order, each once; `kind` as for `path`."""
        texts = enumerate(self.get(pointer, list)[:MOST_PATHS])
        found = [self.path(f"{pointer}.{i}", text, kind) for i, text in texts if isinstance(text, str)]
        return tuple(dict.fromkeys(path for path in found if path))

    def path(self, pointer: str, text: str, kind: str | None) -> str | None:
        """The path in its shortest spelling; None when it is wrong.

        A `file` or `directory` must exist and be written without `..`; a `file?` or `directory?`
        may be missing, which is a warning; without a kind, only the text matters.
        """
        try:
            path = normal(text, pointer)
        except SpecError as error:
            self.problems += [self.placed(problem, pointer) for problem in error.problems]
            return None
        if kind is None:
            return path
        if ".." in text.split("/"):
            self.problem(pointer, f"{brief(text)} contains '..'", f"write {brief(path)}")
            return None
        missing = not os.path.lexists(self.root / path)
        if missing and kind.endswith("?"):
            what = "an empty directory stands in for it" if kind == "directory?" else "it is left out"
            self.warning(pointer, f"{brief(text)} does not exist", what)
            return path
        try:
            existing(self.root, path, pointer, directory=kind.startswith("directory"))
        except SpecError as error:
            self.problems += [self.placed(problem, pointer) for problem in error.problems]
            return None
        return path

    def problem(
        self, pointer: str, message: str, hint: str | None = None, severity: Severity = Severity.ERROR
    ) -> None:
        """Add a problem at a place."""
        problem = Problem(message=f"{pointer}: {message}", hint=hint, severity=severity)
        self.problems.append(self.placed(problem, pointer))

    def warning(self, pointer: str, message: str, hint: str) -> None:
        """Add a warning at a place."""
        self.problem(pointer, message, hint, Severity.WARNING)

    def placed(self, problem: Problem, pointer: str) -> Problem:
        """The problem with the file, the line and the step that the pointer leads to."""
        step = None
        if match := _STEP.match(pointer):
            entry = self.get("workflow.specification.steps", list)[int(match[1])]
            name = entry.get("name") if isinstance(entry, dict) else None
            step = name if isinstance(name, str) else match[1]
        line = self.document.lines.get(pointer, problem.line)
        return replace(problem, file=self.document.path, line=line, pointer=pointer, step=step)
