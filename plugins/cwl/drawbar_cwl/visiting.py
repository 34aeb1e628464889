"""Visits of the files in a value, in place of functions of cwltool that ask abstract classes about each part.

cwltool visits each input and output object a dozen times for each job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, MutableSequence
from typing import Any

from cwltool import command_line_tool, main, process, utils

_Visitor = Callable[[Any], Any]
_SCALARS = frozenset({str, int, float, bool, type(None)})


def install() -> None:
    """Have cwltool use what is here."""
    for visit in (visit_class, visit_files, visit_directories, visit_files_directories):
        for module in (utils, process, command_line_tool, main):
            if hasattr(module, visit.__name__):
                setattr(module, visit.__name__, visit)


def visit_class(rec: Any, cls: Iterable[Any], op: _Visitor) -> None:
    """Call `op` for every object of one of these classes, outer ones first."""
    if type(rec) in _SCALARS:
        return
    if isinstance(rec, (dict, MutableMapping)):
        if "class" in rec and rec["class"] in cls:
            op(rec)
        for key in rec:
            visit_class(rec[key], cls, op)
    elif isinstance(rec, (list, MutableSequence)):
        for each in rec:
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
