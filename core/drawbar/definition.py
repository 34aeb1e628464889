"""Finds an analysis, the engine for a bare workflow file, and the files a workflow is made of.

A workflow file refers to others: tools that CWL steps `run:`, `$ref`s of yadage, `include:`s of a
Snakefile. `workflow.files` and `workflow.directories` name them. Where an analysis has neither, they
are found by a rule that looks at names only, since reading them would be the engine's business:

* in a directory below the analysis, everything in that directory;
* beside the reana.yaml, the files with the same suffix (for a Snakefile, `.smk`);
* for a bare workflow file, everything in its directory.

"Everything" leaves out hidden names, and ends at 1,000 files or 100 MB; beyond it, only the files
with the same suffix count, and a warning says so.
"""

from __future__ import annotations

import posixpath
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from drawbar.documents import Document, brief, load
from drawbar.engine import Engine
from drawbar.errors import PluginError, Problem, Severity, SpecError, UsageError
from drawbar.options import did_you_mean
from drawbar.paths import existing, walk

_YAML = (".yaml", ".yml")
REANA_ENGINES = ("cwl", "serial", "snakemake", "yadage")
MOST_FILES = 1000
MOST_BYTES = 100 * 10**6


def find(path: Path) -> tuple[Path, str | None, Document | None]:
    """The file that `path` means, the fragment (`#main`) behind it, and its content if it is an analysis.

    For a directory that is the `reana.yaml` in it. A file is an analysis when it is called
    `reana*.yaml`, or is YAML with a mapping `workflow`; any other is a workflow file. Raises `UsageError`
    when there is no such file, and `SpecError` when an analysis cannot be read.
    """
    text, _, fragment = str(path).rpartition("#")
    if fragment and not _mode(path) and stat.S_ISREG(_mode(Path(text))):
        return Path(text), fragment, None
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = did_you_mean(path.name, _names(path.parent)) or ""
        raise UsageError(
            f"{path}: {reason}" + (f" ({hint})" if hint.startswith("did you") else "")
        ) from error
    if stat.S_ISDIR(mode):
        path = _in_directory(path)
    elif not stat.S_ISREG(mode):
        raise UsageError(f"{path}: is not a regular file")
    named = path.name.startswith("reana")
    if path.suffix not in _YAML:
        return path, None, None
    try:
        document = load(path)
    except SpecError:
        if named:
            raise
        return path, None, None
    workflow = document.value.get("workflow") if isinstance(document.value, dict) else None
    return path, None, document if named or isinstance(workflow, dict) else None


def _in_directory(directory: Path) -> Path:
    found = [name for name in ("reana.yaml", "reana.yml") if stat.S_ISREG(_mode(directory / name))]
    if len(found) == 2:
        raise UsageError(f"{directory}: there are both {found[0]} and {found[1]} (name one of them)")
    if found:
        return directory / found[0]
    others = sorted(name for name in _names(directory) if re.fullmatch(r".*reana.*\.ya?ml", name))
    hint = f"name one of: {', '.join(others[:12])}" if others else "name a reana.yaml or a workflow file"
    raise UsageError(f"{directory}: there is no reana.yaml in this directory ({hint})")


def recognise(path: Path, engines: Mapping[str, type[Engine]]) -> type[Engine]:
    """The one engine that recognises a bare workflow file.

    Raises `UsageError` when it is none or several, `PluginError` when an engine breaks over it.
    """
    claims = []
    for name, engine in sorted(engines.items()):
        try:
            if engine().recognises(path):
                claims.append(engine)
        except Exception as error:
            raise PluginError(f"engine {name!r} broke while looking at {path}: {error}") from error
    if len(claims) == 1:
        return claims[0]
    if claims:
        names = " and ".join(repr(engine.name) for engine in claims)
        raise UsageError(f"{path}: {names} both take this for theirs (choose with --engine)")
    if path.suffix in _YAML:
        load(path)
    hint = f"choose with --engine, one of: {', '.join(sorted(engines))}"
    missing = [name for name in REANA_ENGINES if name not in engines]
    if missing:
        hint += f"; not installed: {', '.join(missing)} (pip install 'drawbar[{','.join(missing)}]')"
    raise UsageError(f"{path}: no engine recognises this file ({hint})")


def unknown_engine(name: str, engines: Mapping[str, type[Engine]]) -> tuple[str, str | None]:
    """The message and the hint for an engine that there is not."""
    if name in REANA_ENGINES:
        return (
            f"the engine {name!r} is not installed",
            f"pip install 'drawbar[{name}]', or see `drawbar plugins`",
        )
    return f"{brief(name)} is not an engine", did_you_mean(name, {*engines, *REANA_ENGINES})


def companions(
    root: Path, file: str, *, bare: bool, directory: str = ""
) -> tuple[tuple[str, ...], Problem | None]:
    """The files that come with the workflow file `file`, itself included, relative to `root`.

    They are in `directory`, else beside the file. The problem is a warning that some were left out. Files
    and links that cannot be used are no part of it: if the workflow needs one, its engine says so.
    """
    directory = directory or posixpath.dirname(file)
    if not directory and not bare:
        return _alike(root, file), None
    found, size = [file], 0
    for entry in walk(root, directory, "workflow.file", listed=False):
        if entry.directory or entry.path == file:
            continue
        found.append(entry.path)
        size += _size(entry.source)
        if len(found) > MOST_FILES or size > MOST_BYTES:
            where = directory or "the directory of the workflow file"
            message = (
                f"{where} holds more than {MOST_FILES} files or {MOST_BYTES // 10**6} MB: "
                "only files with the suffix of the workflow file come with it"
            )
            hint = "list what it refers to in workflow.files or workflow.directories of a reana.yaml"
            return _alike(root, file), Problem(message=message, hint=hint, severity=Severity.WARNING)
    return tuple(sorted(found)), None


def _alike(root: Path, file: str) -> tuple[str, ...]:
    """The workflow file, and the files beside it with the same suffix."""
    directory, name = posixpath.split(file)
    suffix = posixpath.splitext(name)[1] or ".smk"
    found = {file}
    for other in _names(root / directory):
        if posixpath.splitext(other)[1] == suffix and not other.startswith("."):
            try:
                existing(root, posixpath.join(directory, other), "workflow.file")
            except SpecError:
                continue
            found.add(posixpath.join(directory, other))
    return tuple(sorted(found))


def _names(directory: Path) -> list[str]:
    """What is in a directory that may not be readable, or not there."""
    try:
        return [path.name for path in directory.iterdir()]
    except OSError:
        return []


def _mode(path: Path) -> int:
    """The mode of a file; 0 when it cannot be had."""
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
