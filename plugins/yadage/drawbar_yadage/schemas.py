"""The form of a workflow, checked against yadage's own schemas, and completed with their defaults.

The schemas distinguish kinds of process, environment, publisher and scheduler by a key such as
`process_type`. So a mistake is reported for the kind that was meant, and not as "matches none of".
"""

# Paths of a specification are texts, and stay so.
# ruff: noqa: PTH118, PTH120
from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from drawbar.documents import brief
from drawbar.errors import Problem
from drawbar.options import did_you_mean

from drawbar_yadage.specification import Specification

_TYPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "object": (dict, "a mapping"),
    "array": (list, "a list"),
    "string": (str, "a text"),
    "number": ((int, float), "a number"),
    "boolean": (bool, "true or false"),
    "null": (type(None), "null"),
}
_SELECTORS = ("steps", "stages", "step")


def complete(specification: Specification) -> list[Problem]:
    """Fill in defaults, in place, and return what is wrong. Abbreviations are written out."""
    checker = _Checker(specification)
    value = specification.value
    checker.check(value, _schema("yadage/workflow-schema.json"), "", "a workflow")
    return checker.problems


class _Checker:
    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self.problems: list[Problem] = []

    def check(self, value: Any, schema: Mapping[str, Any], pointer: str, what: str) -> None:
        """Check a value, in place, against a schema and whatever it refers to."""
        if "$ref" in schema:
            schema = _schema(_joined(schema["$base"], schema["$ref"]))
        if not self._type(value, schema, pointer, what):
            return
        title = str(schema.get("title", ""))
        if title == "Yadage Stage":
            what = f"stage {brief(value.get('name'))}"
            if isinstance(value.get("dependencies"), list):
                value["dependencies"] = {
                    "dependency_type": "jsonpath_ready",
                    "expressions": value["dependencies"],
                }
        if title in ("Single Step Scheduler", "Multiple Step Scheduler"):
            self._selectors(value.get("parameters"))
            if isinstance(value.get("parameters"), dict):
                schema = {**schema, "properties": {**schema["properties"], "parameters": {}}}
        if "properties" in schema and isinstance(value, dict):
            self._mapping(value, schema, pointer, what)
        if isinstance(value, list) and "items" in schema:
            for number, item in enumerate(value):
                self.check(item, {"$base": schema["$base"], **schema["items"]}, f"{pointer}.{number}", what)
        if isinstance(schema.get("oneOf"), list):
            self._kinds(value, schema, pointer, what)

    def _mapping(self, value: dict[str, Any], schema: Mapping[str, Any], pointer: str, what: str) -> None:
        properties = schema["properties"]
        for key in schema.get("required", ()):
            if key not in value:
                self._wrong(pointer, f"{what} has no {key!r}")
        for key, item in value.items():
            inner = f"{pointer}.{key}" if pointer else key
            if key in properties:
                self.check(
                    item,
                    {"$base": schema["$base"], **properties[key]},
                    inner,
                    f"{key!r} of {what}" if what else key,
                )
            elif schema.get("additionalProperties") is False:
                self._wrong(inner, f"{what} has an unknown key {brief(key)}", did_you_mean(key, properties))
        for key, inner_schema in properties.items():
            if "default" in inner_schema and key not in value:
                value[key] = json.loads(json.dumps(inner_schema["default"]))

    def _type(self, value: Any, schema: Mapping[str, Any], pointer: str, what: str) -> bool:
        wanted = schema.get("type")
        if wanted is not None:
            kind, words = _TYPES[wanted]
            if not isinstance(value, kind) or (isinstance(value, bool) and wanted == "number"):
                self._wrong(pointer, f"{what} must be {words}, not {brief(value)}")
                return False
        if "enum" in schema and value not in schema["enum"]:
            known = schema["enum"]
            self._wrong(pointer, f"{what} must be {' or '.join(map(repr, known))}, not {brief(value)}")
            return False
        return True

    def _kinds(self, value: Any, schema: Mapping[str, Any], pointer: str, what: str) -> None:
        """Find the one of several schemas that is meant, by the key that tells them apart."""
        known: dict[str, Mapping[str, Any]] = {}
        key = ""
        for each in schema["oneOf"]:
            if "$ref" not in each:
                continue
            candidate = _schema(_joined(schema["$base"], each["$ref"]))
            for name, property_ in candidate["properties"].items():
                if name.endswith("_type"):
                    key = name
                    known |= dict.fromkeys(property_["enum"], candidate)
        if not known:
            plain = [each["type"] for each in schema["oneOf"] if "type" in each]
            if plain and not any(isinstance(value, _TYPES[kind][0]) for kind in plain):
                words = " or ".join(_TYPES[kind][1] for kind in plain)
                self._wrong(pointer, f"{what} must be {words}, not {brief(value)}")
            return
        if value is None and any(each.get("type") == "null" for each in schema["oneOf"]):
            return
        if not isinstance(value, dict):
            self._wrong(pointer, f"{what} must be a mapping with {key!r}, not {brief(value)}")
        elif key not in value:
            self._wrong(pointer, f"{what} has no {key!r}", f"one of: {', '.join(sorted(known))}")
        elif value[key] not in known:
            message = f"{what} has an unknown {key} {brief(value[key])}"
            self._wrong(f"{pointer}.{key}", message, did_you_mean(str(value[key]), known))
        else:
            self.check(value, known[value[key]], pointer, what)

    @staticmethod
    def _selectors(parameters: Any) -> None:
        """Mark what selects outputs; yadage needs to be told, its users do not write it."""
        for _, value, _ in parameter_items(parameters):
            if isinstance(value, dict) and any(key in value for key in _SELECTORS):
                value.setdefault("expression_type", "stage-output-selector")

    def _wrong(self, pointer: str, message: str, hint: str | None = None) -> None:
        self.problems.append(self.specification.problem(pointer, message, hint=hint))


def parameter_items(parameters: Any) -> Iterator[tuple[str, Any, str]]:
    """Key, value and place of each parameter, in either way of writing them."""
    if isinstance(parameters, dict):
        for key, value in parameters.items():
            yield key, value, key
    elif isinstance(parameters, list):
        for number, item in enumerate(parameters):
            if isinstance(item, dict) and isinstance(item.get("key"), str) and "value" in item:
                yield item["key"], item["value"], f"{number}.value"


def as_yadage(value: Any) -> Any:
    """The workflow as yadage's rules want it: parameters are lists of keys and values."""
    if isinstance(value, dict):
        made = {key: as_yadage(item) for key, item in value.items()}
        if "scheduler_type" in made:
            items = parameter_items(value.get("parameters"))
            made["parameters"] = [{"key": key, "value": item} for key, item, _ in items]
        return made
    if isinstance(value, list):
        return [as_yadage(item) for item in value]
    return value


def _joined(base: str, reference: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(base), reference.rstrip("#")))


@cache
def _schema(name: str) -> Mapping[str, Any]:
    """One of yadage's schemas, by its path in the package, which is not imported for it."""
    package = importlib.util.find_spec("yadageschemas")
    assert package is not None
    assert package.submodule_search_locations is not None
    text = (Path(package.submodule_search_locations[0]) / name).read_text()
    return {"$base": name, **json.loads(text)}
