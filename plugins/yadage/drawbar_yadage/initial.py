"""The initial data of a workflow: its parameters, and the directories that files are looked for in."""

# Paths of a specification are texts, and stay so.
# ruff: noqa: PTH118
from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drawbar.documents import load
from drawbar.errors import Problem, SpecError
from drawbar.options import Options, did_you_mean, option
from drawbar.paths import existing, inside, normal

from drawbar_yadage.remote import refuse_remote
from drawbar_yadage.states import Provider

_DATA_OPTIONS = ("initdir", "inputarchive", "archivematch", "subinits", "pathbase")
_WITHOUT_EFFECT = ("read", "ensure", "overwrite")
_MOST_UNPACKED = 10 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class YadageOptions(Options):
    """REANA's operational options of a yadage workflow, and yadage's own."""

    toplevel: str | None = option(None, help="directory that the workflow file and its $refs are relative to")
    initdir: str | None = option(
        None, help="directory that initial data is looked for in; else the workspace"
    )
    initfiles: tuple[str, ...] = option((), help="YAML files with further parameters")
    accept_metadir: bool = option(True, help="without effect, since each run has its own; REANA has it")
    dataopts: dict[str, Any] = option(
        {}, help="yadage's options of data: initdir, inputarchive, archivematch, subinits, pathbase"
    )
    allow_network: bool = option(
        False, help="fetch a toplevel or $refs from the network; not from an analysis"
    )
    diagram: str | None = option(None, help="file in the workspace for a Mermaid diagram of what ran")


def parameters(root: Path, options: YadageOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the files of `initfiles` give, later ones winning, and above all what was given by name."""
    made: dict[str, Any] = {}
    for name in options.initfiles:
        document = load(existing(root, name, "initfiles"), shown=name)
        if not isinstance(document.value, Mapping):
            raise SpecError(
                Problem(message="initial data is a mapping of names and values", file=name, line=1)
            )
        made.update(document.value)
    return {**made, **given}


def check_options(options: YadageOptions, document: str) -> None:
    """Raises `SpecError` for options of data that are unknown, or that mean something on the network.

    That something may be fetched from the network is for the user to say, and not for an analysis.
    """
    if options.allow_network and _says_itself(document):
        message = "an analysis cannot allow itself the network"
        hint = "leave allow_network out, and give -o allow_network=true"
        raise SpecError(Problem(message=message, file=document, pointer="inputs.options", hint=hint))
    for name, value in options.dataopts.items():
        if name == "nest" and value is True:
            continue
        if name == "nest":
            message = "dataopts: without 'nest', steps share one directory, and none could be repeated alone"
            raise SpecError(Problem(message=message, file=document, hint="leave 'nest' out"))
        if name not in (*_DATA_OPTIONS, *_WITHOUT_EFFECT):
            message, known = f"dataopts: unknown option {name!r}", did_you_mean(name, _DATA_OPTIONS)
            raise SpecError(Problem(message=message, file=document, hint=known))
    archive = options.dataopts.get("inputarchive")
    if archive is not None:
        refuse_remote("inputarchive", str(archive), Problem(message="", file=document))


def _says_itself(document: str) -> bool:
    analysis = load(Path(document)).value
    inputs = analysis.get("inputs") if isinstance(analysis, Mapping) else None
    given = inputs.get("options") if isinstance(inputs, Mapping) else None
    return isinstance(given, Mapping) and "allow_network" in given


def provider(workspace: Path, definition: Path, options: YadageOptions) -> Provider:
    """What gives steps their directories; an archive of inputs is unpacked where it is not yet."""
    data = options.dataopts
    base = normal(data["pathbase"], "dataopts.pathbase") if data.get("pathbase") else "."
    archive = data.get("inputarchive")
    name = data.get("initdir") or options.initdir or ("init" if archive else ".")
    initdir = (
        inside(workspace, os.path.normpath(os.path.join(base, name)), "initdir") if name != "." else workspace
    )
    if archive is not None and not initdir.exists():
        _unpack(existing(definition, archive, "inputarchive"), initdir, data.get("archivematch"))
    inner = _inner(workspace, base, data.get("subinits") or {})
    return Provider(str(workspace), [str(initdir)], inner)


def _inner(workspace: Path, base: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The directories of sub-workflows' initial data, as absolute paths."""
    made: dict[str, Any] = {}
    for name, value in given.items():
        if isinstance(value, Mapping):
            made[name] = _inner(workspace, base, value)
        else:
            path = os.path.normpath(os.path.join(base, str(value)))
            made[name] = str(existing(workspace, path, "dataopts.subinits", directory=True))
    return made


def _unpack(archive: Path, target: Path, match: str | None) -> None:
    """Unpack a zip file, or, with `match`, the one directory in it that fits that pattern."""
    import fnmatch

    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            names = packed.namelist()
            below = ""
            if match is not None:
                found = fnmatch.filter(names, match)
                if len(found) != 1 or not found[0].endswith("/"):
                    raise SpecError(
                        f"inputarchive: {match!r} fits {len(found)} directories of {archive.name}"
                    )
                below = found[0]
            if sum(info.file_size for info in packed.infolist()) > _MOST_UNPACKED:
                raise SpecError(f"inputarchive: {archive.name} holds more than {_MOST_UNPACKED >> 30} GiB")
            for name in names:
                if name.startswith(below) and not name.endswith("/"):
                    place = part / normal(name[len(below) :], f"inputarchive {archive.name}")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    with packed.open(name) as source, place.open("wb") as copy:
                        shutil.copyfileobj(source, copy)
    except (zipfile.BadZipFile, OSError) as error:
        raise SpecError(f"inputarchive: {archive.name} cannot be unpacked: {error}") from error
    part.mkdir(exist_ok=True)
    part.rename(target)
