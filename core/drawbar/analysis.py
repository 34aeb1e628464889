"""What the user wrote: a `reana.yaml`, or a bare workflow file with parameters.

`load_analysis` finds it, reads it, and checks all of it that can be checked without its engine:
every mistake is told at once, each with its place and a remedy. What the fields mean is in
`docs/reference/analysis.md`.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drawbar.definition import companions, find, recognise, unknown_engine
from drawbar.documents import Document, brief, load
from drawbar.engine import Engine, Source
from drawbar.errors import Problem, Severity, SpecError, UsageError
from drawbar.fields import Fields
from drawbar.parameters import engine_options, mapping, undeclared
from drawbar.paths import Entry, existing, normal, walk
from drawbar.schemas import check, schema

MOST_INPUTS = 1000
"""Input files and directories that an analysis may list together."""

_PARAMETERS_IN_FILE = ("cwl", "snakemake")
"""Engines for which `inputs.parameters.input` is the name of a parameter file."""
_TOPLEVEL = "toplevel"
"""The option, REANA's, of the directory or address that the engine looks for the workflow file in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """An analysis that has been read and found right.

    `root` is its directory and `document` its file, both absolute; every other path is relative to
    `root` and in its shortest spelling. Input files and workflow files exist; an input directory may
    be missing, since git keeps no empty ones.
    """

    root: Path
    document: Path
    name: str
    engine: str
    file: str | None = None
    fragment: str | None = None
    specification: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    parameters_file: str | None = None
    """The analysis' own parameter file; its content is part of `parameters`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Operational options, under the names that the engine declares."""
    input_files: tuple[str, ...] = ()
    input_directories: tuple[str, ...] = ()
    workflow_files: tuple[str, ...] = ()
    """The workflow file and those that it may refer to, declared or found (`drawbar.definition`)."""
    workflow_directories: tuple[str, ...] = ()
    output_files: tuple[str, ...] = ()
    output_directories: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    """Declared feature files; a missing one is among the warnings."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    workspace: Mapping[str, Any] = field(default_factory=dict)
    version: str | None = None
    warnings: tuple[Problem, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)

    def source(
        self, root: Path | None = None, *, until: str | None = None, allow_execution: bool = True
    ) -> Source:
        """What an engine gets of the analysis; `root` is the run's workspace when it executes."""
        root = root or self.root
        return Source(
            root=root,
            document=self.document,
            file=root / self.file if self.file else None,
            fragment=self.fragment,
            specification=self.specification,
            parameters=self.parameters,
            options=self.options,
            until=until,
            lines=self.lines,
            declared=(*self.input_files, *self.input_directories),
            allow_execution=allow_execution,
        )

    def contents(self) -> list[Entry]:
        """All files and directories that a workspace gets copies of, sorted by path.

        Inputs, workflow files, the analysis' parameter file and its tests; directories with all
        that is in them (nothing, when one does not exist). The analysis file itself is not among
        them. Raises `SpecError` for what has gone since the analysis was read, and for links that
        lead out of its directory.
        """
        entries = {}
        for file in (*self.input_files, *self.workflow_files, self.parameters_file):
            if file:
                source = existing(self.root, file, "the analysis' files")
                entries[file] = Entry(path=file, source=source)
        for file in self.test_files:
            if os.path.lexists(self.root / file):
                entries[file] = Entry(path=file, source=existing(self.root, file, "tests.files"))
        for directory in (*self.input_directories, *self.workflow_directories):
            source = self.root / directory
            if os.path.lexists(source):
                found = walk(self.root, directory, "the analysis' directories")
                entries |= {entry.path: entry for entry in found}
            else:
                entries[directory] = Entry(path=directory, source=source, directory=True)
        return [entries[path] for path in sorted(entries)]


def load_analysis(
    path: Path | str = ".",
    *,
    engines: Mapping[str, type[Engine]],
    engine: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    parameters_file: Path | str | None = None,
    options: Mapping[str, Any] | None = None,
    root: Path | None = None,
) -> Analysis:
    """The analysis at `path`: a `reana.yaml`, a directory that holds one, or a bare workflow file.

    `engines` are the installed engines by name; `engine` names the one for a bare workflow file that
    none or several of them recognise. `parameters` win over `parameters_file`, which wins over the
    analysis. `root` is the directory that a bare workflow file belongs to, where that is not its own.

    Raises `UsageError` when there is no analysis at `path`, and `SpecError` with every problem of
    the analysis, warnings last. Executes nothing.
    """
    file, fragment, document = find(Path(path))
    place = file.parent if document or root is None else root
    root = Path(os.path.abspath(place))  # noqa: PTH100 (symbolic links are kept)
    reader = _Reader(document or Document({}, str(file), {}), root, engines=engines)
    analysis = (
        reader.analysis(file.name, engine, options or {}) if document else reader.bare(file, fragment, engine)
    )
    own = analysis.parameters if document else None
    analysis = replace(
        analysis,
        parameters=reader.overridden(own, parameters_file, parameters or {}),
        options={**analysis.options, **reader.options(options or {}, engines.get(analysis.engine))},
    )
    problems = sorted(
        reader.problems, key=lambda each: (each.file is None, each.file != str(file), each.line or 0)
    )
    if any(problem.severity is Severity.ERROR for problem in problems):
        raise SpecError(problems)
    return replace(analysis, warnings=tuple(problems))


@dataclass(slots=True, kw_only=True)
class _Reader(Fields):
    """Makes an `Analysis` of what was found, and collects what is wrong with it."""

    engines: Mapping[str, type[Engine]]
    parameters_known: bool = True
    """False when a parameter file of the analysis cannot be read."""

    def bare(self, file: Path, fragment: str | None, asked: str | None) -> Analysis:
        """The analysis that a bare workflow file is."""
        if asked is None:
            engine = recognise(file, self.engines)
        elif asked in self.engines:
            engine = self.engines[asked]
        else:
            message, hint = unknown_engine(asked, self.engines)
            raise UsageError(f"{message} ({hint})" if hint else message)
        name = os.path.relpath(file, self.root)
        files, warning = companions(self.root, name, bare=True)
        if warning:
            self.problems.append(replace(warning, file=str(file)))
        return Analysis(
            root=self.root,
            document=self.root / name,
            name=_run_name(self.root),
            engine=engine.name,
            file=name,
            fragment=fragment,
            workflow_files=files,
        )

    def analysis(self, name: str, asked: str | None, given_options: Mapping[str, Any]) -> Analysis:
        """The analysis that a `reana.yaml` describes, as far as it is right."""
        if not isinstance(self.document.value, dict):
            message = f"an analysis is a mapping with the key 'workflow', not {brief(self.document.value)}"
            raise SpecError(Problem(message=message, file=self.document.path, line=self.line("")))
        for problem in check(self.document, schema("analysis-v1")):
            pointer = problem.pointer or ""
            # Further keys in there are the engine's to judge: they may be meant for some backend.
            if problem.severity is Severity.ERROR or not pointer.startswith("workflow.specification."):
                self.problems.append(self.placed(problem, pointer))
        engine = self.engine(asked)
        options = self.get("inputs.options", dict)
        parameters, parameters_file = self.parameters()
        files = self.paths("workflow.files", "file")
        toplevel = {**options, **given_options}.get(_TOPLEVEL)
        file, fragment = self.workflow_file(toplevel is not None)
        found, directory = self.found_file(file, toplevel)
        if found is not None:
            if self.has("workflow.files") or self.has("workflow.directories"):
                files = tuple(dict.fromkeys((found, *files)))
            else:
                files, warning = companions(self.root, found, bare=False, directory=directory)
                if warning:
                    self.problems.append(self.placed(warning, "workflow.file"))
        input_files = self.paths("inputs.files", "file")
        input_directories = self.paths("inputs.directories", "directory?")
        self.check_inputs()
        self.warn()
        return Analysis(
            root=self.root,
            document=self.root / name,
            name=_run_name(self.root),
            engine=self.get("workflow.type", str),
            file=file,
            fragment=fragment,
            specification=self.get("workflow.specification", dict) or None,
            parameters=parameters,
            parameters_file=parameters_file,
            options=self.options(options, engine, "inputs.options"),
            input_files=input_files,
            input_directories=input_directories,
            workflow_files=files,
            workflow_directories=self.paths("workflow.directories", "directory"),
            output_files=self.paths("outputs.files"),
            output_directories=self.paths("outputs.directories"),
            test_files=self.paths("tests.files", "file?"),
            resources=self.get("workflow.resources", dict),
            workspace=self.get("workspace", dict),
            version=self.get("version", str) or None,
            lines=self.document.lines,
        )

    def engine(self, asked: str | None) -> type[Engine] | None:
        """The engine that the analysis names, when it is installed."""
        name = self.get("workflow.type", str)
        if asked and name and asked != name:
            hint = "--engine is for bare workflow files; leave it out"
            self.problem("workflow.type", f"{brief(name)}, but --engine says {brief(asked)}", hint)
        if name and name not in self.engines:
            self.problem("workflow.type", *unknown_engine(name, self.engines))
        return self.engines.get(name)

    def workflow_file(self, elsewhere: bool) -> tuple[str | None, str | None]:
        """The workflow file, and the fragment behind it; `elsewhere` when the engine looks for it."""
        text, fragment = self.get("workflow.file", str), None
        if "#" in text and not os.path.lexists(self.root / text[:4096]):
            text, _, fragment = text.partition("#")
        path = self.path("workflow.file", text, None if elsewhere else "file") if text else None
        return path, fragment or None

    def found_file(self, file: str | None, toplevel: Any) -> tuple[str | None, str]:
        """Where the workflow file is, and its toplevel directory, when they are in the analysis."""
        places = [(file, "")] if file else []
        if file and isinstance(toplevel, str) and not posixpath.isabs(toplevel):
            directory = posixpath.normpath(toplevel)
            if directory != "." and directory.split("/")[0] != "..":
                places.insert(0, (posixpath.normpath(posixpath.join(directory, file)), directory))
        for place, directory in places:
            if os.path.isfile(self.root / place):  # noqa: PTH113 (says no where it may not look)
                return place, directory
        return None, ""

    def parameters(self) -> tuple[Mapping[str, Any], str | None]:
        """The parameters that the analysis gives, and the file that some of them are in."""
        inline = self.get("inputs.parameters", dict)
        pointer = "workflow.parameters.file"
        text = self.get(pointer, str)
        legacy = inline.get("input")
        if not text and isinstance(legacy, str) and self.get("workflow.type", str) in _PARAMETERS_IN_FILE:
            pointer, text = "inputs.parameters.input", legacy
            inline = {name: value for name, value in inline.items() if name != "input"}
        if not text:
            return inline, None
        path = self.path(pointer, text, "file")
        values, _ = self.read_parameters(self.root / path) if path else (None, None)
        self.parameters_known = values is not None
        return {**inline, **(values or {})}, path

    def read_parameters(self, path: Path) -> tuple[Mapping[str, Any] | None, Mapping[str, int]]:
        """The parameters in a file with their lines; None, and a problem, when it cannot be read."""
        try:
            document = load(path, shown=_shown(path))
            return mapping(document), document.lines
        except SpecError as error:
            self.problems += error.problems
            return None, {}

    def overridden(
        self,
        own: Mapping[str, Any] | None,
        file: Path | str | None,
        given: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        """The analysis' own parameters with those of a file and those given over them.

        Those of a reana.yaml are all that there can be; a bare workflow file (None) declares none.
        """
        values, lines = self.read_parameters(Path(file)) if file else ({}, {})
        if own is not None and self.parameters_known:
            for problem in undeclared(values or {}, own):
                line = lines.get(problem.pointer or "")
                self.problems.append(replace(problem, file=str(file), line=line))
            self.problems += undeclared(given, own)
        return {**(own or {}), **(values or {}), **given}

    def options(
        self, values: Mapping[str, Any], engine: type[Engine] | None, pointer: str = "-o"
    ) -> dict[str, Any]:
        """The options among `values` that the engine knows."""
        if engine is None:
            return {}
        known, problems = engine_options(values, engine)
        for problem in problems:
            place = f"{pointer}.{problem.pointer}"
            problem = replace(problem, message=f"{pointer}: {problem.message}")
            self.problems.append(problem if pointer == "-o" else self.placed(problem, place))
        return known

    def check_inputs(self) -> None:
        """Nothing is listed twice, by itself or with a directory that it is in."""
        lists = {pointer: self.get(pointer, list) for pointer in ("inputs.files", "inputs.directories")}
        count = sum(len(texts) for texts in lists.values())
        if count > MOST_INPUTS >= max(len(texts) for texts in lists.values()):
            self.problem("inputs", f"lists {count} files and directories, at most {MOST_INPUTS} are allowed")
        places: dict[str, str] = {}
        for pointer, texts in lists.items():
            for index, text in enumerate(texts[:MOST_INPUTS]):
                place = f"{pointer}.{index}"
                try:
                    path = normal(text, place) if isinstance(text, str) else ""
                except SpecError:
                    continue
                if path and path in places:
                    line = self.line(places[path])
                    self.problem(place, f"{brief(text)} is listed twice, first on line {line}", "remove one")
                elif path:
                    places[path] = place
        for path, place in places.items():
            for parent in map(str, Path(path).parents):
                if parent in places:
                    where = f"{brief(parent)} on line {self.line(places[parent])}"
                    self.problem(place, f"{brief(path)} is part of {where}", "remove one of them")

    def warn(self) -> None:
        """Tell about fields that are right, and that drawbar does nothing about."""
        for key, value in self.get("workflow.resources", dict).items():
            if key in ("kerberos", "voms_proxy", "rucio") and value is True:
                message = "drawbar provides no credentials of its own"
                self.warning(
                    f"workflow.resources.{key}", message, "jobs have those of the session they run in"
                )
            elif key == "dask":
                self.warning(
                    "workflow.resources.dask", "drawbar starts no Dask cluster", "start one beforehand"
                )
        if self.get("workspace.root_path", str):
            hint = "choose the workspace with --workspace or DRAWBAR_HOME"
            self.warning("workspace.root_path", "is meant for REANA's own disks, and ignored", hint)


def _run_name(root: Path) -> str:
    """What a run of an analysis in this directory is called by default."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).strip("-.")[:64] or "analysis"


def _shown(path: Path) -> str:
    """A path as messages show it: relative when it is below the current directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
