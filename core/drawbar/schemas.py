"""Checks a document against a JSON Schema, and says in words what does not fit.

A key that the schema does not list is a warning; everything else is an error.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators

from drawbar.documents import Document, brief
from drawbar.errors import Problem, Severity
from drawbar.options import did_you_mean

MOST_PROBLEMS = 100
"""More errors, or warnings, than this about one document are not told."""

_TYPES = {
    "object": "a mapping (name: value)",
    "array": "a list (- item)",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}
_BOOLEANS = ("true", "false", "yes", "no", "on", "off")


@cache
def schema(name: str) -> Mapping[str, Any]:
    """A schema that drawbar ships, by name and version (`analysis-v1`). Not to be changed."""
    text = files("drawbar").joinpath("schema", f"{name}.schema.json").read_text("utf-8")
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def check(document: Document, schema: Mapping[str, Any]) -> list[Problem]:
    """Everything in the document that does not fit the schema, in the order of lines."""
    errors: dict[Problem, None] = {}
    warnings: dict[Problem, None] = {}
    for error in _Validator(schema).iter_errors(document.value):
        for problem in _problems(error):
            line = document.lines.get(problem.pointer or "")
            kept = errors if problem.severity is Severity.ERROR else warnings
            if len(kept) < MOST_PROBLEMS:
                kept[replace(problem, file=document.path, line=line)] = None
        if len(errors) == MOST_PROBLEMS:
            break
    return sorted([*errors, *warnings], key=lambda problem: problem.line or 0)


def _unique(_validator: Any, unique: bool, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    """`uniqueItems` in linear time, telling which item is the repetition."""
    seen = set()
    for index, item in enumerate(instance if unique and isinstance(instance, list) else ()):
        text = json.dumps(item, sort_keys=True)
        if text in seen:
            yield ValidationError("is listed twice", path=(index,), instance=item, validator="uniqueItems")
        seen.add(text)


_Validator: Any = validators.extend(Draft202012Validator, {"uniqueItems": _unique})  # type: ignore[no-untyped-call]


def _problems(error: ValidationError) -> Iterator[Problem]:
    pointer = ".".join(str(part) for part in error.absolute_path)
    value: Any = error.instance
    expected: Any = error.validator_value
    rules: Any = error.schema

    def problem(message: str, hint: str | None = None, **changes: Any) -> Problem:
        text = f"{pointer}: {message}" if pointer else message
        return replace(Problem(message=text, pointer=pointer, hint=hint), **changes)

    match error.validator:
        case "additionalProperties":
            known = rules["properties"]
            for key in [key for key in value if key not in known][:MOST_PROBLEMS]:
                place = f"{pointer}.{key}" if pointer else key
                hint = did_you_mean(key, known)
                yield problem(f"unknown key {brief(key)}", hint, pointer=place, severity=Severity.WARNING)
        case "required":
            for key in expected:
                if key not in value:
                    others = [other for other in value if other not in rules.get("properties", ())]
                    close = difflib.get_close_matches(key, others, n=1)
                    yield problem(
                        f"{key!r} is missing", f"{close[0]!r} may be a misspelling of it" if close else None
                    )
        case "anyOf":
            keys = " or ".join(repr(key) for branch in expected for key in branch["required"])
            yield problem(f"{keys} is missing")
        case "type":
            yield problem(*_wrong_type(value, expected))
        case "pattern":
            yield problem(f"{brief(value)} is not {rules['title']}")
        case "minItems" | "minLength" | "minProperties":
            yield problem("is empty", "give it a value, or remove the key")
        case "maxItems":
            yield problem(f"has {len(value)} entries, at most {expected} are allowed")
        case "minimum":
            yield problem(f"must be {expected} or more, not {brief(value)}")
        case "uniqueItems":
            yield problem(f"{brief(value)} is listed twice", "remove one of them")
        case _:
            yield problem(error.message[:200])


def _wrong_type(value: Any, expected: str) -> tuple[str, str | None]:
    """The message and the hint for a value of another type than expected."""
    hint = None
    if value is None:
        return f"is empty, but must be {_TYPES[expected]}", "give it a value, or remove the key"
    if expected == "string" and not isinstance(value, dict | list):
        hint = f'write it in quotes: "{json.dumps(value)}"'
    elif expected == "array" and isinstance(value, str):
        hint = f"write it as a list: [{brief(value)}]"
    elif isinstance(value, str) and (value.isdigit() if expected == "integer" else value in _BOOLEANS):
        hint = "write it without quotes"
    return f"must be {_TYPES[expected]}, not {brief(value)}", hint
