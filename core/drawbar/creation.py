"""Makes runs: a directory, the run's own copy of its analysis, and a workspace with the inputs in it.

`create_run` makes one of an analysis, `analysis_of` reads the analysis of one again: from where the
user wrote it, or as it was when the run was made.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from drawbar.analysis import Analysis, load_analysis
from drawbar.copying import copy_file, make_directories, naming
from drawbar.engine import Engine
from drawbar.errors import DrawbarError, Problem, SpecError, UsageError
from drawbar.home import Home, RunDirectory, write_run
from drawbar.model import RunSpec, RunState
from drawbar.paths import Entry, existing, inside
from drawbar.settings import Settings


def create_run(
    home: Home,
    analysis: Analysis,
    *,
    settings: Settings,
    name: str | None = None,
    workspace: Path | None = None,
    in_place: bool = False,
    backend: str | None = None,
    container: str | None = None,
    until: str | None = None,
    allow_missing_outputs: bool = False,
    parameters: Mapping[str, Any] | None = None,
    parameters_file: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> RunDirectory:
    """A new run of an analysis, ready to be driven.

    The analysis is copied, into the run's directory and into the workspace: a new one, the user's
    own `workspace`, or, `in_place`, the directory of the analysis. `parameters`, `parameters_file`
    and `options` are those that were given besides the analysis, and have been applied to it.

    After an error there is no such run, and a user's workspace is as it was. Raises `SpecError` when
    the analysis cannot be copied, or files that are in the workspace already would be overwritten;
    `UsageError` when the name or the workspace cannot be used; `InfrastructureError` for a disk that
    is full or cannot be written.
    """
    if in_place and workspace is not None:
        raise UsageError("--in-place and --workspace exclude each other")
    own = analysis.root if in_place else workspace
    if own is not None:
        own = Path(os.path.abspath(own))  # noqa: PTH100 (symbolic links are kept)
        _check_workspace(home, own)
    _check_home(home, analysis)
    contents = analysis.contents()
    directory = home.create(name or default_name(analysis))
    try:
        document = analysis.document.relative_to(analysis.root)
        copy_contents(contents, directory.definition)
        if not os.path.lexists(directory.definition / document):
            copy_contents([Entry(path=str(document), source=analysis.document)], directory.definition)
        if parameters_file is not None:
            copy_file(parameters_file, _parameters_copy(directory, parameters_file))
        place = own or directory.path / "workspace"
        spec = RunSpec(
            id=directory.id,
            name=directory.id.rpartition(".")[0],
            engine=analysis.engine,
            source=str(analysis.root),
            document=str(document),
            fragment=analysis.fragment,
            workspace=str(place),
            created=time.time(),
            in_place=in_place,
            parameters=parameters or {},
            parameters_file=os.path.abspath(parameters_file) if parameters_file else None,  # noqa: PTH100
            options=options or {},
            backend=backend,
            container=container,
            until=until,
            allow_missing_outputs=allow_missing_outputs,
            cache=settings.cache,
        )
        made = [] if in_place else _fill(place, contents, directory.definition)
        try:
            write_run(directory, spec)
        except BaseException:
            _remove(made)
            raise
    except BaseException:
        shutil.rmtree(directory.path, ignore_errors=True)
        raise
    return directory


def unfinished(home: Home, analysis: Analysis, name: str, asked: Mapping[str, Any]) -> RunDirectory | None:
    """The newest run of a name when it has not finished, to be resumed instead of making another.

    It stays what it was made as: `asked` are arguments as `create_run` takes them, and `UsageError`
    names one that is given and differs, or the other analysis that the name stands for.
    """
    directory = home.newest(name)
    if directory is None or directory.state().get("state") == RunState.FINISHED:
        return None
    spec = directory.spec()
    document = str(analysis.document.relative_to(analysis.root))
    differences = []
    for key, wish in {**asked, "source": analysis.root, "document": document}.items():
        was = getattr(spec, key)
        if isinstance(was, Mapping):
            given = wish or {}
            differences += [f"{key[:-1]} {each}" for each in given if was.get(each) != given[each]]
        elif wish and str(was) != str(wish):
            differences.append(f"{key.replace('_', ' ')}: {was}")
    if differences:
        raise UsageError(
            f"{directory.id} has not finished, and was made otherwise ({', '.join(differences)}); "
            f"go on with it by `drawbar resume {directory.id}`, or choose another name"
        )
    return directory


def default_name(analysis: Analysis) -> str:
    """What runs of an analysis are called when the user does not say: after its directory."""
    return analysis.name.replace(".", "-").lstrip("_-") or "analysis"


def analysis_of(
    directory: RunDirectory, *, engines: Mapping[str, type[Engine]], as_was: bool = False
) -> Analysis:
    """The analysis of a run, read again with everything that was asked for when the run was made.

    It is read where the user wrote it, or, with `as_was`, from the run's own copy. Raises as
    `load_analysis` does.
    """
    spec = directory.spec()
    root = directory.definition if as_was else Path(spec.source)
    path = str(root / spec.document) + (f"#{spec.fragment}" if spec.fragment else "")
    parameters_file = Path(spec.parameters_file) if spec.parameters_file else None
    if parameters_file and as_was:
        parameters_file = _parameters_copy(directory, parameters_file)
    return load_analysis(
        path,
        engines=engines,
        engine=spec.engine,
        parameters=spec.parameters,
        parameters_file=parameters_file,
        options=spec.options,
        root=root,
    )


def ended(directory: RunDirectory) -> bool:
    """Whether a run has come to an end, good or bad; not so when it is interrupted."""
    return RunState(directory.state().get("state", RunState.CREATED)).terminal


def copy_contents(contents: Sequence[Entry], target: Path) -> list[Path]:
    """Copy the files and directories of an analysis to their paths beneath `target`; returns what was made.

    No link in `target` is followed. After an error all that was made is removed again.
    """
    made: list[Path] = []
    try:
        with naming("make the directory", target):
            if not target.exists():
                target.mkdir(parents=True)
                made.append(target)
        for entry in contents:
            path = PurePosixPath(entry.path)
            parent = path if entry.directory else path.parent
            missing = [place for place in (parent, *parent.parents) if not os.path.lexists(target / place)]
            make_directories(target, parent)
            made += [target / place for place in reversed(missing)]
            if not entry.directory:
                copy_file(entry.source, target / path)
                made.append(target / path)
    except BaseException:
        _remove(made)
        raise
    return made


def _parameters_copy(directory: RunDirectory, file: Path) -> Path:
    """Where the run keeps its copy of a parameter file, under a suffix that says how to read it."""
    return directory.path / f"parameters{file.suffix}"


def _fill(workspace: Path, contents: Sequence[Entry], definition: Path) -> list[Path]:
    """Put what is missing of the analysis into a workspace; files that are there must be the same."""
    missing: list[Entry] = []
    problems: list[Problem] = []
    for entry in contents:
        try:
            place = inside(workspace, entry.path, "--workspace")
            if not os.path.lexists(place):
                missing.append(
                    Entry(path=entry.path, source=definition / entry.path, directory=entry.directory)
                )
                continue
            existing(workspace, entry.path, "--workspace", directory=entry.directory)
        except SpecError as error:
            problems += error.problems
            continue
        if place.is_symlink():
            problems.append(_occupied(workspace, entry.path, "is a link"))
        elif not entry.directory and not _same(definition / entry.path, place):
            problems.append(_occupied(workspace, entry.path, "differs from the file of the analysis"))
    if problems:
        raise SpecError(problems)
    return copy_contents(missing, workspace)


def _same(one: Path, other: Path) -> bool:
    with naming("read", other):
        return filecmp.cmp(one, other, shallow=False)


def _occupied(workspace: Path, path: str, what: str) -> Problem:
    return Problem(
        message=f"--workspace: {path!r} is in {workspace} already, and {what}",
        hint="move it away, or choose another workspace",
    )


def _check_home(home: Home, analysis: Analysis) -> None:
    """Refuse a home that would be copied into itself, as a part of the analysis."""
    place = Path(os.path.realpath(home.path))
    copied = [
        (directory, True) for directory in (*analysis.input_directories, *analysis.workflow_directories)
    ]
    if analysis.file is not None:
        beside = os.path.dirname(analysis.file)  # noqa: PTH120 (a text)
        if beside or analysis.document == analysis.root / analysis.file:
            copied.append((beside, False))
    for directory, listed in copied:
        root = Path(os.path.realpath(analysis.root / directory))
        if not place.is_relative_to(root):
            continue
        hidden = any(part.startswith(".") for part in place.relative_to(root).parts)
        if listed or not hidden:  # what nobody listed comes along without hidden names
            raise UsageError(
                f"DRAWBAR_HOME ({home.path}) is among the files of the analysis; choose another place for it"
            )


def _check_workspace(home: Home, workspace: Path) -> None:
    """Refuse a workspace that is no directory, holds the home or is used by an unfinished run."""
    if os.path.lexists(workspace) and not workspace.is_dir():
        raise UsageError(f"--workspace: {workspace} is not a directory")
    real = Path(os.path.realpath(workspace))
    if Path(os.path.realpath(home.path)).is_relative_to(real):
        raise UsageError(
            f"the workspace {workspace} holds DRAWBAR_HOME ({home.path}); choose a directory of its own"
        )
    for run in home.runs():
        try:
            other = Path(os.path.realpath(run.spec().workspace))
        except DrawbarError:
            continue  # a damaged run keeps nobody from making another
        if (other.is_relative_to(real) or real.is_relative_to(other)) and not ended(run):
            raise UsageError(
                f"the workspace {workspace} is used by the run {run.id}, which has not ended; "
                f"`drawbar resume {run.id}` goes on with it, `drawbar cancel {run.id}` ends it"
            )


def _remove(made: Sequence[Path]) -> None:
    """Remove what was made, last first; what somebody put into a directory meanwhile stays."""
    for path in reversed(made):
        try:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:
            continue
