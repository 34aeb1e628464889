"""Loads a workflow document and its input object, and tells what is wrong with them, with places."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cwltool import load_tool
from cwltool.builder import INPUT_OBJ_VOCAB
from cwltool.context import LoadingContext
from cwltool.errors import GraphTargetMissingException, UnsupportedRequirement, WorkflowException
from cwltool.loghandler import _logger, defaultStreamHandler
from cwltool.main import init_job_order, setup_schema
from cwltool.process import Process, custom_schemas, fill_in_defaults, shortname
from drawbar.engine import Source
from drawbar.errors import DrawbarError, Problem, SpecError, Unsupported
from drawbar.options import did_you_mean
from schema_salad.exceptions import ValidationException
from schema_salad.ref_resolver import file_uri, uri_file_path
from schema_salad.sourceline import cmap
from schema_salad.validate import validate_ex

from drawbar_cwl import schemas
from drawbar_cwl.access import Access
from drawbar_cwl.inputobject import InputObjectLoader
from drawbar_cwl.options import CwlOptions
from drawbar_cwl.shortcuts import visit_class
from drawbar_cwl.tools import Flow, make_process

_PLACE = re.compile(r"^(?P<file>[^\s:][^:\n]*):(?P<line>\d+):(?P<column>\d+): ?(?P<text>.*)$")
_OVERRIDES = "http://commonwl.org/cwltool#overrides"
_LOADER_ID = load_tool.jobloader_id_name

_quiet = logging.getLogger("drawbar_cwl.quiet")
_quiet.disabled = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A workflow that is ready to run with its input object, in plain data."""

    process: Process
    order: Mapping[str, Any]
    access: Access
    warnings: tuple[str, ...] = ()


def load(source: Source, options: CwlOptions) -> Loaded:
    """Load and check everything; raises `SpecError` with every problem that is found, `Unsupported` for
    what the standard allows and cwltool cannot do. Runs nothing and changes nothing.
    """
    _logger.removeHandler(defaultStreamHandler)
    schemas.install()
    roots = {source.root, source.document.parent}
    access = Access(None if options.outside else roots)
    warnings = _Warnings()
    _logger.addHandler(warnings)
    try:
        return _load(source, options, access, warnings)
    except UnsupportedRequirement as error:
        raise Unsupported(problems_in(str(error), source)) from error
    except (ValidationException, WorkflowException, GraphTargetMissingException) as error:
        raise SpecError(problems_in(str(error), source)) from error
    except DrawbarError:
        raise
    except Exception as error:
        message = f"cwltool cannot read it: {type(error).__name__}: {error}"
        raise SpecError(Problem(message=message, file=_shown(source, None))) from error
    finally:
        _logger.removeHandler(warnings)


def _load(source: Source, options: CwlOptions, access: Access, warnings: _Warnings) -> Loaded:
    if options.extensions or custom_schemas:  # it drops schemas that have been read, which takes long
        setup_schema(argparse.Namespace(enable_ext=options.extensions), None)
    loading = LoadingContext(
        {
            "construct_tool_object": make_process,
            "fetcher_constructor": access.fetcher(),
            "disable_js_validation": True,
            "relax_path_checks": True,  # names reach no shell unquoted
            "enable_dev": options.development,
            "eval_timeout": options.eval_timeout_s,
        }
    )
    uri = _document(source, options)
    if options.overrides:
        loading.overrides_list.extend(load_tool.load_overrides(_uri(options.overrides), uri))
    given = _given(source, options, access)
    if isinstance(given, dict) and _OVERRIDES in given:
        where = options.job or str(source.document)
        described: Any = cmap(given)
        loading.overrides_list.extend(
            load_tool.resolve_overrides(described, _uri(where), uri.partition("#")[0])
        )
        del given[_OVERRIDES]
    inline = source.specification if options.tool is None else None
    if inline is not None and source.file is None:
        document: Any = cmap({"id": uri, **inline}, fn=uri)
    else:
        document = uri
    loading, workflow, uri = load_tool.fetch_document(document, loading)
    loading, uri = load_tool.resolve_and_validate_document(loading, workflow, uri)
    process = load_tool.make_tool(uri, loading)
    until = source.until or options.target
    if until is not None:
        if not isinstance(process, Flow):
            raise WorkflowException(f"there is no step {until!r}: this is no workflow")
        process.only(until)
    process.visit(_no_operation)
    order = _order(process, given, source, options, access, warnings)
    return Loaded(process=process, order=order, access=access, warnings=tuple(warnings.messages))


def plain(value: Any) -> Any:
    """The same in dicts and lists, which are copied faster than what the YAML library makes."""
    if isinstance(value, str):  # most are
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def problems_in(message: str, source: Source) -> list[Problem]:
    """The problems that a message of cwltool tells about, each with its file and line.

    Such a message is a tree, indented; what has nothing beneath it is what is wrong.
    """
    found: list[tuple[int, Problem]] = []
    for text in message.splitlines():
        bare = text.strip().lstrip("*- ")
        if not bare:
            continue
        indent = len(text) - len(text.lstrip(" "))
        match = _PLACE.match(bare)
        if match is None:
            if found and found[-1][1].line is not None:
                last_indent, last = found[-1]
                found[-1] = (last_indent, _with(last, f"{last.message} {bare}"))
            else:
                found.append((indent, Problem(message=bare, file=_shown(source, None))))
            continue
        depth = indent + len(match["text"]) - len(match["text"].lstrip())
        words = match["text"].strip().lstrip("*- ")
        if not words:
            continue
        problem = Problem(message=words, file=_shown(source, match["file"]), line=int(match["line"]))
        found.append((depth, problem))
    leaves = [
        problem
        for number, (depth, problem) in enumerate(found)
        if number + 1 == len(found) or found[number + 1][0] <= depth
    ]
    return leaves or [Problem(message=message, file=_shown(source, None))]


def _with(problem: Problem, message: str) -> Problem:
    return Problem(message=message, file=problem.file, line=problem.line)


def _shown(source: Source, file: str | None) -> str:
    if file is None:
        return str(source.file or source.document)
    path = Path(os.path.abspath(urllib.parse.unquote(file.removeprefix("file://"))))  # noqa: PTH100
    root = Path(os.path.abspath(source.root))  # noqa: PTH100
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


class _Warnings(logging.Handler):
    """Keeps what cwltool warns of while it loads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage().strip())


def _document(source: Source, options: CwlOptions) -> str:
    """The URI of the process to run."""
    fragment = f"#{source.fragment}" if source.fragment else ""
    if options.tool is not None:
        if re.match(r"(https?|file)://", options.tool):
            return options.tool
        path, mark, rest = options.tool.partition("#")
        if mark and Path(options.tool).exists():
            path, mark, rest = options.tool, "", ""
        return _uri(path) + mark + rest
    if source.file is not None:
        return _uri(source.root / source.file) + fragment
    return _uri(source.root / source.document.name) + (fragment or "#main")


def _given(source: Source, options: CwlOptions, access: Access) -> Any:
    """The input object as it is given, its references resolved."""
    loader = InputObjectLoader(load_tool.jobloaderctx, fetcher_constructor=access.fetcher())
    if options.job is not None:
        where = _uri(options.job)
        if options.base:
            base = _uri(options.base) + "/"
            told = {key: value for key, value in plain(loader.fetch(where)).items() if key != _LOADER_ID}
            given, _ = loader.resolve_all(cmap(told), base, checklinks=False)
        else:
            given, _ = loader.resolve_ref(where, checklinks=False, content_types=None)
    else:
        base = _uri(options.base or source.root) + "/"
        given, _ = loader.resolve_all(cmap(plain(source.parameters)), base, checklinks=False)
    if given is not None and not isinstance(given, Mapping):
        raise ValidationException(f"the input object must be a mapping, not {type(given).__name__}")
    return plain(given or {})


def _order(
    process: Process, given: Any, source: Source, options: CwlOptions, access: Access, warnings: _Warnings
) -> Any:
    """The input object, checked against what the process takes."""
    names = [shortname(each["id"]) for each in process.tool["inputs"]]
    namespaces = tuple(f"{each}:" for each in given.get("$namespaces", {}))
    for name in given:
        known = name in names or name in (_LOADER_ID, "id", "cwl:tool", "$namespaces", "$schemas")
        if not known and ":" not in name and not name.startswith(namespaces or ("\0",)):
            hint = did_you_mean(name, names) or ""
            warnings.messages.append(f"the workflow has no input {name!r}" + (f" ({hint})" if hint else ""))
    loader = InputObjectLoader(load_tool.jobloaderctx, fetcher_constructor=access.fetcher())
    arguments = argparse.Namespace(workflow="", job_order=list(options.arguments), tool_help=False)
    files = access.files()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            made = init_job_order(
                None if options.arguments else (given or {_LOADER_ID: ""}),
                arguments,
                process,
                loader,
                None,  # type: ignore[arg-type]
                make_fs_access=files,
                input_basedir=str(source.root),
            )
    except SystemExit as error:  # how it refuses arguments, and some input objects
        words = said.getvalue().strip().rpartition("error: ")[2]
        raise ValidationException(words or "cwltool refuses the input object") from error
    order = plain(made)
    check = plain(order)
    fill_in_defaults(process.tool["inputs"], check, files(str(source.root)))
    schema: Any = process.names.get_name("input_record_schema", None)
    validate_ex(schema, check, strict=False, logger=_quiet, vocab=INPUT_OBJ_VOCAB)
    missing: list[Problem] = []

    def exists(file: dict[str, Any]) -> None:
        location = str(file.get("location", ""))
        if location.startswith("file://"):
            path = uri_file_path(location)
            if not os.path.exists(path):  # noqa: PTH110
                missing.append(Problem(message=f"the input {path} does not exist", file=_shown(source, None)))

    visit_class(check, ("File", "Directory"), exists)
    if missing:
        raise SpecError(missing)
    return order


def _uri(path: str | Path) -> str:
    return str(file_uri(os.path.abspath(path)))  # noqa: PTH100 (symbolic links are kept)


def _no_operation(description: Any) -> None:
    if description["class"] == "Operation":
        raise WorkflowException("Workflow has unrunnable abstract Operation")
