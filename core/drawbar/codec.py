"""Frozen dataclasses to and from JSON values.

`encode` leaves out fields that hold their default, so that a document says only what somebody
decided; `decode` refuses unknown fields and wrong types, and runs the class's own invariants.
Both are compiled once per class, since every job passes through them several times.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from drawbar.errors import DrawbarError

T = TypeVar("T")
Converter = Callable[[Any], Any]
_PLAIN = frozenset({type(None), str, int, float, bool})
"""Types of values that are their own JSON form; asking for them first keeps a job cheap."""


class CodecError(DrawbarError):
    """A JSON value does not fit the type that it is decoded to."""

    exit_status = 3


def encode(value: Any) -> Any:
    """The JSON value of a dataclass, enum or container of them."""
    kind = value.__class__
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {key: item if item.__class__ in _PLAIN else encode(item) for key, item in value.items()}
    if kind is tuple or kind is list:
        return [item if item.__class__ in _PLAIN else encode(item) for item in value]
    if dataclasses.is_dataclass(value):
        return encode(_decided(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def dumps(value: Any) -> str:
    """The text of `encode`, compact. What is JSON already is not gone through in Python first."""
    return _ENCODER.encode(value)


def decode(cls: type[T], data: Any) -> T:
    """The `cls` that `data` describes.

    After an error nothing was built, and the `CodecError` names the class and the field.
    """
    if not isinstance(data, Mapping):
        raise CodecError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    converters = _converters(cls)  # type: ignore[arg-type]
    values = {}
    name = ""
    try:
        for name, item in data.items():
            values[name] = converters[name](item)
    except (TypeError, ValueError, CodecError) as error:
        raise CodecError(f"{cls.__name__}.{name}: {error}") from error
    except KeyError as error:
        raise CodecError(f"{cls.__name__}: unknown field {name!r}") from error
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CodecError(f"{cls.__name__}: {error}") from error


def _decided(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that do not hold their default, as they are."""
    made = {}
    for name, default in _defaults(value.__class__):
        item = getattr(value, name)
        if item is not default and item != default:
            made[name] = item
    return made


def _shallow(value: Any) -> Any:
    """The JSON form of what the standard library cannot write; what is inside may be more of it."""
    if dataclasses.is_dataclass(value):
        return _decided(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"no JSON: {type(value).__name__}")


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_shallow)


@cache
def _defaults(cls: type) -> tuple[tuple[str, Any], ...]:
    """Each field's name with its default; a field without one is equal to nothing and so always encoded."""
    pairs = []
    for field in dataclasses.fields(cls):
        default: Any = object()
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        pairs.append((field.name, default))
    return tuple(pairs)


@cache
def _converters(cls: type) -> Mapping[str, Converter]:
    hints = typing.get_type_hints(cls)
    return {field.name: _converter(hints[field.name]) for field in dataclasses.fields(cls)}


def _converter(hint: Any) -> Converter:
    """What turns a JSON value into `hint`, or raises TypeError or ValueError."""
    if hint is Any:
        return lambda value: value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [_converter(argument) for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            only = inner[0]
            return lambda value: None if value is None else only(value)
        return lambda value: None if value is None else _first(inner, value)
    if origin is tuple:
        item = _converter(arguments[0])
        return lambda value: tuple([item(each) for each in _expect(value, list | tuple)])
    if origin is not None and issubclass(origin, Mapping):
        item = _converter(arguments[1])
        return lambda value: {
            _expect(key, str): item(each)
            for key, each in (value if value.__class__ is dict else _expect(value, Mapping)).items()
        }
    if dataclasses.is_dataclass(hint):
        return lambda value: value if isinstance(value, hint) else decode(hint, value)  # type: ignore[arg-type]
    if issubclass(hint, Enum):
        return hint  # type: ignore[no-any-return]
    if hint is float:
        return lambda value: float(_expect(value, int | float))
    return lambda value: _expect(value, hint)


def _first(converters: list[Converter], value: Any) -> Any:
    error: Exception | None = None
    for converter in converters:
        try:
            return converter(value)
        except (TypeError, ValueError) as failure:
            error = failure
    raise error or TypeError("no type accepts null")


def _expect(value: Any, kind: Any) -> Any:
    if value.__class__ is kind:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, Any)):
        name = getattr(kind, "__name__", str(kind))
        raise TypeError(f"expected {name}, got {type(value).__name__}")
    return value
