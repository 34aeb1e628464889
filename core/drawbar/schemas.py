"""Checks a document against a JSON Schema of drawbar's own.

Most documents fit, which is found without `jsonschema`, as importing that takes a good part of what starting
a small run does. For the others `drawbar.misfits` says with it what does not fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from drawbar.documents import Document
from drawbar.errors import Problem

_TYPES: Mapping[str, type] = {"object": dict, "array": list, "string": str, "boolean": bool}


@cache
def schema(name: str) -> Mapping[str, Any]:
    """A schema that drawbar ships, by name and version (`analysis-v1`). Not to be changed."""
    text = files("drawbar").joinpath("schema", f"{name}.schema.json").read_text("utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def check(document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """Everything in the document that does not fit the schema, in the order of lines."""
    if fits(document.value, schema):
        return []
    from drawbar.misfits import misfits

    return misfits(document, schema)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether plain JSON data fits a schema, as `jsonschema` would have it.

    Raises `NotImplementedError` for a schema with keywords that those of drawbar do not use.
    """
    return _fits(value, schema, schema)


def _fits(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    return all(_keeps(value, keyword, schema, root) for keyword in schema)


def _keeps(value: Any, keyword: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether a value keeps to what one keyword of a schema rules."""
    rule: Any = schema[keyword]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match keyword:
        case "title" | "description" | "$schema" | "$id" | "$defs" | "then":
            return True
        case "type" if rule == "integer":
            return number and (isinstance(value, int) or value.is_integer())
        case "type":
            return isinstance(value, _TYPES[rule])
        case "const":
            return bool(value == rule)
        case "$ref":
            return _fits(value, root["$defs"][rule.removeprefix("#/$defs/")], root)
        case "anyOf":
            return any(_fits(value, branch, root) for branch in rule)
        case "if":
            return not _fits(value, rule, root) or _fits(value, schema["then"], root)
        case "minimum":
            return not (number and value < rule)
        case "pattern":
            return not isinstance(value, str) or re.search(rule, value) is not None
        case "minLength":
            return not isinstance(value, str) or len(value) >= rule
        case "minItems":
            return not isinstance(value, list) or len(value) >= rule
        case "maxItems":
            return not isinstance(value, list) or len(value) <= rule
        case "uniqueItems":
            return not isinstance(value, list) or len({*map(_text, value)}) == len(value)
        case "items":
            return not isinstance(value, list) or all(_fits(each, rule, root) for each in value)
        case "minProperties":
            return not isinstance(value, dict) or len(value) >= rule
        case "required":
            return not isinstance(value, dict) or all(key in value for key in rule)
        case "properties":
            return not isinstance(value, dict) or all(
                _fits(value[key], each, root) for key, each in rule.items() if key in value
            )
        case "additionalProperties":
            others = value.keys() - schema.get("properties", {}) if isinstance(value, dict) else ()
            return not others or (rule is not False and all(_fits(value[key], rule, root) for key in others))
    raise NotImplementedError(f"the keyword {keyword!r} in a schema of drawbar")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
