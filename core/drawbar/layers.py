"""Tables of settings as dataclasses: declaring them, checking one source, putting sources together.

A table is a frozen dataclass whose fields are made by `setting`: single values, further tables, or
mappings from a name to either. A field made by `others` takes the keys that the table does not
declare. A `Layer` is one source (a file, a variable, an option of the command line); it checks what it
says and keeps it flat, by name, so that layers merge value by value.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from drawbar.errors import Problem
from drawbar.options import did_you_mean

Name = tuple[str, ...]
"""The place of a setting: `("limits", "cpus")` for `limits.cpus`."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_KINDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a table",
}
_TRUTH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,  # noqa: A002
    project: bool = False,
    minimum: float | None = None,
) -> Any:
    """A field that is a setting. `project` lets the file that comes with an analysis set it."""
    metadata = {"help": help, "project": project, "minimum": minimum}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def others() -> Any:
    """A field for the keys of a table that somebody else declares, unchecked."""
    return dataclasses.field(default_factory=dict, metadata={"others": True})


@cache
def declared(table: Any) -> Mapping[str, tuple[Any, dataclasses.Field[Any]]]:
    """The settings of a table by name: the type, and the field with its metadata."""
    hints = typing.get_type_hints(table)
    return {
        each.name: (hints[each.name], each) for each in dataclasses.fields(table) if "help" in each.metadata
    }


def is_table(hint: Any) -> bool:
    """Whether a setting of this type, or this value of one, is a table of its own."""
    return dataclasses.is_dataclass(hint)


def is_mapping(hint: Any) -> bool:
    """Whether a setting of this type has names below it that the user chooses."""
    return isinstance(origin := typing.get_origin(hint), type) and issubclass(origin, Mapping)


def dotted(name: Name) -> str:
    """A name as one writes it in a file."""
    return ".".join(part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in name)


def nested(name: Name, value: Any) -> Mapping[str, Any]:
    """The document that says just this value."""
    for part in reversed(name):
        value = {part: value}
    return value  # type: ignore[no-any-return]


def walk(table: Any, name: Name = ()) -> Iterator[tuple[Name, Any, str]]:
    """Every single value in a table and the tables below it, with its help."""
    for key, (_, declaration) in declared(table.__class__).items():
        value, place = getattr(table, key), (*name, key)
        if is_table(value):
            yield from walk(value, place)
        elif not isinstance(value, Mapping):
            yield place, value, declaration.metadata["help"]
        else:
            for each, item in value.items():
                if is_table(item):
                    yield from walk(item, (*place, each))
                else:
                    yield (*place, each), item, declaration.metadata["help"]


def assemble(table: Any, values: Mapping[Name, Any]) -> Any:
    """The table from checked values by their names in it."""
    below: dict[str, dict[Name, Any]] = {}
    for name, value in values.items():
        below.setdefault(name[0], {})[name[1:]] = value
    arguments: dict[str, Any] = {}
    for key, parts in below.items():
        if key not in declared(table):
            arguments.setdefault(str(_others(table)), {})[key] = parts[()]
            continue
        hint = declared(table)[key][0]
        if is_table(hint):
            arguments[key] = assemble(hint, parts)
        elif is_mapping(hint):
            arguments[key] = _assemble_mapping(typing.get_args(hint)[1], parts)
        else:
            arguments[key] = parts[()]
    return table(**arguments)


def _assemble_mapping(item: Any, values: Mapping[Name, Any]) -> Mapping[str, Any]:
    if not is_table(item):
        return {name[0]: value for name, value in values.items()}
    below: dict[str, dict[Name, Any]] = {}
    for name, value in values.items():
        below.setdefault(name[0], {})[name[1:]] = value
    return {key: assemble(item, parts) for key, parts in below.items()}


def _others(table: Any) -> str | None:
    return next((each.name for each in dataclasses.fields(table) if "others" in each.metadata), None)


class Layer:
    """One source of settings. `problems` are what is wrong with it, `values` what is right.

    `base` is where its relative paths begin. `project` restricts it to the settings declared so.
    The values of a `text` layer are strings that are read as the type that is declared.
    """

    def __init__(
        self,
        origin: str,
        document: Mapping[str, Any],
        *,
        table: Any,
        base: Path,
        file: Path | None = None,
        project: bool = False,
        text: bool = False,
    ) -> None:
        self.origin = origin
        self.values: dict[Name, Any] = {}
        self.problems: list[Problem] = []
        self._base = base
        self._file = file
        self._project = project
        self._text = text
        self._table(table, document, ())

    def _table(self, table: Any, document: Any, name: Name) -> None:
        if not isinstance(document, Mapping):
            self._wrong(name, f"must be a table, not {_describe(document)}")
            return
        known = declared(table)
        for key, value in document.items():
            place = (*name, key)
            if key in known:
                self._setting(*known[key], value, place)
            elif _others(table):
                self._keep(place, _literal(value) if self._text else value, project=False)
            else:
                self._wrong(place, "no such setting", did_you_mean(key, known))

    def _setting(self, hint: Any, declaration: dataclasses.Field[Any], value: Any, name: Name) -> None:
        if is_table(hint):
            self._table(hint, value, name)
        elif not is_mapping(hint):
            self._value(hint, declaration, value, name)
        elif not isinstance(value, Mapping):
            self._wrong(name, f"must be a table, not {_describe(value)}")
        else:
            item = typing.get_args(hint)[1]
            for key, each in value.items():
                if not is_table(item):
                    self._value(item, declaration, each, (*name, key))
                elif _TABLE_NAME.fullmatch(key):
                    self._table(item, each, (*name, key))
                else:
                    self._wrong((*name, key), "a name has letters, digits, - and _, and a letter first")

    def _value(self, hint: Any, declaration: dataclasses.Field[Any], value: Any, name: Name) -> None:
        try:
            converted = self._convert(hint, value)
            least = declaration.metadata["minimum"]
            if least is not None and not (least <= converted and math.isfinite(converted)):
                raise ValueError(f"must be at least {least}, not {value}")
        except (ValueError, OverflowError) as error:
            self._wrong(name, str(error))
        else:
            self._keep(name, converted, project=declaration.metadata["project"])

    def _keep(self, name: Name, value: Any, *, project: bool) -> None:
        if self._project and not project:
            self._wrong(
                name,
                "may not be set by a file that comes with an analysis",
                "set it in your own drawbar.toml, in the environment or on the command line",
            )
        else:
            self.values[name] = value

    def _convert(self, hint: Any, value: Any) -> Any:
        """`value` as `hint` wants it; a ValueError says what it must be."""
        if typing.get_origin(hint) is tuple:
            return self._list(typing.get_args(hint)[0], value)
        kind = next(each for each in (*typing.get_args(hint), hint) if each is not type(None))
        if self._text and isinstance(value, str):
            value = _from_text(kind, value)
        if issubclass(kind, StrEnum):
            if value not in list(kind):
                known = ", ".join(repr(str(each)) for each in kind)
                raise ValueError(f"must be one of {known}, not {value!r}")
            return kind(value)
        if kind is Path:
            return self._path(value)
        accepted = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {_KINDS[kind]}, not {_describe(value)}")
        return kind(value)

    def _list(self, item: Any, value: Any) -> tuple[Any, ...]:
        if self._text and isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, list):
            raise ValueError(f"must be a list, not {_describe(value)}")
        return tuple(self._convert(item, each) for each in value)

    def _path(self, value: Any) -> Path:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError(f"must be a path, not {_describe(value)}")
        try:
            return self._base / Path(value).expanduser()
        except RuntimeError as error:
            raise ValueError(f"{value}: {error}") from error

    def _wrong(self, name: Name, message: str, hint: str | None = None) -> None:
        message = f"{dotted(name)}: {message}"
        if self._file is None:
            message = f"{self.origin}: {message}"
        file = str(self._file) if self._file else None
        self.problems.append(Problem(message=message, file=file, pointer=dotted(name), hint=hint))


def _describe(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "a table" if isinstance(value, Mapping) else "a list"
    if isinstance(value, bool):
        return str(value).lower()
    kind = _KINDS.get(type(value), type(value).__name__)
    return f"the {kind.split(maxsplit=1)[-1]} {value!r}" if kind.startswith("a ") else f"{kind} {value!r}"


def _from_text(kind: type, text: str) -> Any:
    """A value of `kind` as one writes it in a variable; the text itself when it is none."""
    try:
        if kind is bool:
            return _TRUTH.get(text.strip().lower(), text)
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def _literal(value: Any) -> Any:
    """A value written as in a file (`4`, `true`, `["a"]`), where the type is not known here; else text."""
    if not isinstance(value, str):
        return value
    try:
        document = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return value
    return document["value"] if len(document) == 1 else value
