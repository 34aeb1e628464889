"""Values of parameters and results, in the shape that yadage and packtivity expect of a data model.

It stands in for `packtivity.typedleafs.TypedLeafs`, which parses and copies the whole document for
every leaf it looks at. Here everything is one walk.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonpointer import JsonPointer

from drawbar_yadage import programs

_ENCODED = "b64json://"

Path = tuple[str | int, ...]


class Values:
    """A JSON value, its mappings sorted by key. Others may read it, and change it through `replace` only."""

    def __init__(self, data: Any, leafmodel: Any = None, idleafs: bool = False) -> None:
        self._data = plain(data)

    def json(self) -> Any:
        """The value."""
        return self._data

    def typed(self, idleafs: bool = False) -> Any:
        """The value; packtivity's types of leaves are not used by any state that yadage makes."""
        return self._data

    def copy(self) -> Values:
        """An independent copy."""
        return Values(self._data)

    def jq(self, program: str, multiple_output: bool = False) -> Values:
        """What a jq program makes of it."""
        return Values(programs.jq(program).transform(self._data, multiple_output=multiple_output))

    def resolve_ref(self, reference: JsonPointer) -> Any:
        """The part that a JSON pointer leads to."""
        return reference.get(self._data)

    def leafs(self) -> Iterator[tuple[JsonPointer, Any]]:
        """See `leaves`."""
        return iter(leaves(self._data))

    def replace(self, place: JsonPointer, value: Any) -> None:
        """Put another value at a place."""
        self._data = place.set(self._data, plain(value))

    def asrefs(self, callback: Callable[[JsonPointer], Any] | None = None) -> Any:
        """The value with every leaf replaced by what `callback` makes of its place."""
        made = callback or (lambda place: place)
        if not isinstance(self._data, list | dict):
            return made(JsonPointer(""))
        return mapped(self._data, lambda path, _: made(JsonPointer.from_parts(path)))

    def map_text(self, change: Callable[[str], str]) -> Values:
        """A copy with every text changed."""
        made = Values(None)
        made._data = map_text(self._data, change)
        return made

    def __getitem__(self, key: Any) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<Values {self._data!r}>"


def plain(data: Any) -> Any:
    """A copy made of plain JSON types, keys sorted; a text in packtivity's `b64json://` form is decoded."""
    if isinstance(data, str):
        return (
            plain(json.loads(base64.b64decode(data[len(_ENCODED) :]))) if data.startswith(_ENCODED) else data
        )
    if data is None or isinstance(data, bool | int | float):
        return data
    if isinstance(data, Mapping):
        return {key: plain(data[key]) for key in sorted(data, key=str)}
    if isinstance(data, list | tuple):
        return [plain(item) for item in data]
    if isinstance(data, Values):
        return plain(data.json())
    raise TypeError(f"{type(data).__name__} is no JSON type")


def map_text(data: Any, change: Callable[[str], str]) -> Any:
    """A copy of a JSON value with every text in it changed; keys stay."""
    if isinstance(data, str):
        return change(data)
    if isinstance(data, Mapping):
        return {key: map_text(item, change) for key, item in data.items()}
    if isinstance(data, list):
        return [map_text(item, change) for item in data]
    return data


def leaves(data: Any) -> list[tuple[JsonPointer, Any]]:
    """Every leaf that is neither null nor false, as jq's `paths(scalars)` has it, with its place."""
    if not isinstance(data, list | dict):
        return [(JsonPointer(""), data)]
    return [(JsonPointer.from_parts(path), value) for path, value in _leaves(data)]


def _leaves(data: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if isinstance(data, list | dict):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _leaves(item, (*path, key))
    elif data is not None and data is not False:
        yield path, data


def mapped(data: Any, change: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """A copy with every leaf that is neither null nor false replaced by what `change` makes of it."""
    if isinstance(data, dict):
        return {key: mapped(item, change, (*path, key)) for key, item in data.items()}
    if isinstance(data, list):
        return [mapped(item, change, (*path, number)) for number, item in enumerate(data)]
    return data if data is None or data is False else change(path, data)
