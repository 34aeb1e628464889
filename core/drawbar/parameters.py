"""Parameters and operational options: read from the command line, merged with the analysis, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from drawbar.documents import Document, brief, parse, scalar
from drawbar.engine import Engine
from drawbar.errors import Problem, Severity, SpecError, UsageError
from drawbar.options import did_you_mean

REANA_OPTIONS = frozenset(
    {"CACHE", "FROM", "TARGET", "toplevel", "initdir", "initfiles", "accept_metadir", "report"}
)
"""Operational options of REANA's engines; one that the engine at hand has no use for is a warning."""


def assignments(texts: Iterable[str], flag: str) -> dict[str, str]:
    """The names and texts of `NAME=VALUE` arguments; the last one of a name wins.

    Raises `UsageError` for an argument without a name or an equals sign.
    """
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {brief(text)}: write it as {flag} NAME=VALUE")
        pairs[name] = value
    return pairs


def value(text: str) -> Any:
    """What `text` would be as the value of a key in a YAML file.

    A text that begins with a quote, a bracket or a brace is read as YAML; any other is a plain
    scalar, whatever it contains, and nothing at all is an empty text. Raises `ValueError` when it is neither.
    """
    if not text.lstrip().startswith(('"', "'", "[", "{")):
        return scalar(text.strip()) if text else ""
    try:
        return parse(text, "value").value
    except SpecError as error:
        raise ValueError(f"{error.problems[0].message}; put it in quotes if it is text") from error


def parameters_from(texts: Iterable[str], flag: str = "-p") -> dict[str, Any]:
    """The parameters that `-p NAME=VALUE` arguments give. Raises `UsageError` as `assignments` does."""
    result = {}
    for name, text in assignments(texts, flag).items():
        try:
            result[name] = value(text)
        except (ValueError, UnicodeError) as error:
            raise UsageError(f"{flag} {name}: {error}") from error
    return result


def mapping(document: Document) -> Mapping[str, Any]:
    """The parameters in a parameter file; none when it is empty. Raises `SpecError` for another document."""
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        message = f"parameters must be a mapping (name: value), not {brief(document.value)}"
        raise SpecError(Problem(message=message, file=document.path, line=document.lines[""]))
    return document.value


def undeclared(names: Iterable[str], declared: Iterable[str]) -> list[Problem]:
    """A problem for every name that the analysis declares no parameter for; its pointer is the name."""
    declared = set(declared)
    problems = []
    for name in names:
        if name not in declared:
            hint = did_you_mean(name, declared) or "declare it under inputs.parameters"
            message = f"the analysis has no parameter {brief(name)}"
            problems.append(Problem(message=message, hint=hint, pointer=name))
    return problems


def engine_options(values: Mapping[str, Any], engine: type[Engine]) -> tuple[dict[str, Any], list[Problem]]:
    """The options that the engine declares, under the names it declares them with, and all problems.

    A text is converted where the engine declares another type. The pointer of a problem is the key.
    """
    names = {alias: info.name for info in engine.Options.declared() for alias in (info.name, *info.aliases)}
    known, problems = {}, []
    for key, given in values.items():
        if key in names:
            try:
                known[names[key]] = _typed(engine, key, given)
            except SpecError as error:
                problems += [replace(problem, pointer=key) for problem in error.problems]
        elif key in REANA_OPTIONS:
            message = f"the engine {engine.name!r} has no use for the option {key!r}"
            problems.append(Problem(message=message, pointer=key, severity=Severity.WARNING))
        else:
            hint = did_you_mean(key, names) or f"the engine {engine.name!r} has no options"
            problems.append(Problem(message=f"unknown option {brief(key)}", hint=hint, pointer=key))
    return known, problems


def _typed(engine: type[Engine], key: str, given: Any) -> Any:
    """The value of an option in the type that the engine declares. Raises `SpecError`."""
    candidates = [given]
    if isinstance(given, str):
        with suppress(ValueError):
            candidates.append(value(given))
    for candidate in candidates:
        with suppress(SpecError):
            engine.Options.parse({key: candidate}, where=key)
            return candidate
    (info,) = (info for info in engine.Options.declared() if key in (info.name, *info.aliases))
    message = f"option {brief(key)} does not take the value {brief(given)}"
    raise SpecError(Problem(message=message, hint=info.help or None))
