"""Parameters in commands: `$name` and `${name}`, as Python's `string.Template` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Any

from drawbar.options import did_you_mean

_LITERAL = "write $$ for a literal dollar sign"


@dataclass(slots=True)
class Expansion:
    """A command with its parameters filled in, and what was found on the way.

    `mistakes` are pairs of message and hint; `text` is the command as written when there are any.
    """

    text: str
    used: set[str] = field(default_factory=set)
    mistakes: list[tuple[str, str]] = field(default_factory=list)


def expand(command: str, parameters: Mapping[str, Any]) -> Expansion:
    """Fill in the parameters of a command; every placeholder that cannot be is a mistake with its column."""
    expansion = Expansion(command)
    for match in Template.pattern.finditer(command):
        name = match["named"] or match["braced"]
        if name is None and match["escaped"] is not None:
            continue
        place = _place(command, match.start())
        if name is None:
            piece = command[match.start() : match.start() + 12].split()[0].rstrip("'\"")
            expansion.mistakes.append((f"{place}: {piece!r} is no parameter", _LITERAL))
        elif name not in parameters:
            close = did_you_mean(name, parameters)
            hint = f"{_LITERAL}; {close}" if close else f"declare it, or {_LITERAL}"
            expansion.mistakes.append((f"{place}: there is no parameter {name!r}", hint))
        else:
            expansion.used.add(name)
    if not expansion.mistakes:
        expansion.text = Template(command).substitute(parameters)
    return expansion


def _place(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return f"line {line}, column {column}" if "\n" in text else f"column {column}"
