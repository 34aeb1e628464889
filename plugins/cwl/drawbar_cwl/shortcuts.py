"""Functions in place of those that cwltool calls many times for each job, with the same results.

Theirs ask abstract classes about each part of a value, copy texts one by one, and gather what an expression
may read also where there is none.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, MutableMapping, MutableSequence
from types import SimpleNamespace
from typing import Any

from cwltool import builder, command_line_tool, main, process, utils, workflow, workflow_job
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from drawbar_cwl.replacing import Replacement

_Visitor = Callable[[Any], Any]
_SCALARS = frozenset({str, int, float, bool, type(None)})
_expression: Any = vars(builder)["expression"]
_evaluate = _expression.do_eval


def replacements() -> list[Replacement]:
    """What is here for cwltool."""
    copies = SimpleNamespace(copy=copy.copy, deepcopy=deepcopy)
    return [
        *(
            (module, visit.__name__, visit)
            for visit in (visit_class, visit_files, visit_directories, visit_files_directories)
            for module in (utils, process, command_line_tool, main)
            if hasattr(module, visit.__name__)
        ),
        *(
            (module, "shortname", shortname)
            for module in (process, command_line_tool, workflow, workflow_job)
        ),
        *((module, "copy", copies) for module in (builder, command_line_tool, process)),
        (_expression, "do_eval", do_eval),
    ]


shortname = functools.cache(process.shortname)
"""The last part of an identifier of a document."""


def visit_class(rec: Any, cls: Iterable[Any], op: _Visitor) -> None:
    """Call `op` for every object of one of these classes, outer ones first."""
    if isinstance(rec, dict) or (type(rec) is not list and isinstance(rec, MutableMapping)):
        if "class" in rec and rec["class"] in cls:  # `cls` may be a text
            op(rec)
        parts: Iterable[Any] = rec.values()
    elif isinstance(rec, list):
        parts = list.__iter__(rec)  # that of the YAML library's lists is slow
    elif isinstance(rec, MutableSequence):
        parts = rec
    else:
        return
    for each in parts:
        if type(each) not in _SCALARS:
            visit_class(each, cls, op)


def visit_files(rec: Any, op: _Visitor) -> None:
    """Call `op` for every file."""
    visit_class(rec, ("File",), op)


def visit_directories(rec: Any, op: _Visitor) -> None:
    """Call `op` for every directory."""
    visit_class(rec, ("Directory",), op)


def visit_files_directories(rec: Any, op: _Visitor) -> None:
    """Call `op` for every file and directory."""
    visit_class(rec, ("File", "Directory"), op)


def deepcopy(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """As `copy.deepcopy`; but lines and comments, which nobody changes, are shared with the original."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if memo is None:
        memo = {}
    elif id(value) in memo:
        return memo[id(value)]
    made: Any
    if kind is dict:
        made = memo[id(value)] = {}
        for key, each in value.items():
            made[key] = deepcopy(each, memo)
    elif kind is CommentedMap:
        made = memo[id(value)] = kind((key, deepcopy(value[key], memo)) for key in value)
        value.copy_attributes(made)
    elif kind is list or kind is CommentedSeq:
        made = memo[id(value)] = kind()
        made.extend([deepcopy(each, memo) for each in list.__iter__(value)])
        if kind is CommentedSeq:
            value.copy_attributes(made)
    else:
        made = copy.deepcopy(value, memo)
    return made


def do_eval(ex: Any, *arguments: Any, **options: Any) -> Any:
    """The value of a text with expressions; of all else, what it is."""
    return _evaluate(ex, *arguments, **options) if _expression.needs_parsing(ex) else ex
