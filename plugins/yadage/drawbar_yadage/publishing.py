"""What a step publishes: before it runs where that can be known, and after it ran.

A result is given beforehand only when no file can change it, so that a replay, which finds the
files of earlier runs, sees what the first run saw.
"""

# Paths of a specification are texts, and stay so.
# ruff: noqa: PTH117, PTH118
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drawbar.documents import load
from drawbar.errors import SpecError

from drawbar_yadage import library
from drawbar_yadage.states import State
from drawbar_yadage.values import Values, mapped


class PublishError(Exception):
    """What a step left, or was given, is not what its publisher needs."""


def expected(publisher: Mapping[str, Any], parameters: Values, state: State) -> Values | None:
    """The result that is known before the step runs, or None."""
    kind = publisher["publisher_type"]
    by_value = kind in ("frompar-pub", "constant-pub")
    unmatched = kind == "interpolated-pub" and not publisher["glob"]
    if (
        by_value
        or unmatched
        or (kind == "fromparjq-pub" and not _looks_at_files(publisher, parameters, state))
    ):
        return publish(publisher, parameters, state, _nothing)
    return None


def publish(
    publisher: Mapping[str, Any],
    parameters: Values,
    state: State,
    hidden: Callable[[str], bool],
) -> Values:
    """The result of a step that has run.

    Where initial data is looked for, paths that are `hidden` do not count as being there.

    Raises `PublishError`, which says what is missing.
    """
    kind = publisher["publisher_type"]
    try:
        if kind == "fromparjq-pub":
            return _from_parameters(publisher, parameters, state, hidden)
        if kind == "frompar-pub":
            return Values(mapped(publisher["outputmap"], lambda _, name: parameters[name]))
        if kind == "fromyaml-pub":
            return Values(_from_yaml(publisher["yamlfile"], state))
        from packtivity.handlers.publisher_handlers import handlers

        return Values(handlers[kind]["default"](publisher, parameters, state))
    except PublishError:
        raise
    except SpecError as error:
        raise PublishError(str(error)) from error
    except (KeyError, IndexError) as error:
        raise PublishError(f"{kind} uses {error}, which is no parameter of the step") from error
    except Exception as error:
        raise PublishError(f"{kind}: {error}") from error


def _nothing(_: str) -> bool:
    return False


def _from_yaml(name: str, state: State) -> Any:
    path = Path(str(state.workdir)) / name
    if not os.path.realpath(path).startswith(os.path.realpath(str(state.workdir)) + os.sep):
        raise PublishError(f"fromyaml-pub: {name} is outside the step's directory")
    if not path.exists():
        raise PublishError(f"fromyaml-pub: the step did not make {name}")
    return load(path, shown=name).value


def _search_directory(state: State) -> str | None:
    if state.readwrite:
        return state.readwrite[0]
    return state.readonly[0] if len(state.readonly) == 1 else None


def _looks_at_files(publisher: Mapping[str, Any], parameters: Values, state: State) -> bool:
    if _search_directory(state) is None:
        return False
    relative = publisher["relative_paths"] and publisher["tryExact"]
    if not (publisher["glob"] or relative):
        return False
    texts = [value for _, value in parameters.jq(publisher["script"]).leafs() if isinstance(value, str)]
    return any(publisher["glob"] or not os.path.isabs(text) for text in texts)


def _from_parameters(
    publisher: Mapping[str, Any], parameters: Values, state: State, hidden: Callable[[str], bool]
) -> Values:
    result = parameters.jq(publisher["script"])
    directory = _search_directory(state)
    if directory is None:
        return result
    if hidden(directory):  # a step's own, in which all is what that step made
        hidden = _nothing
    for place, value in result.leafs():
        if not isinstance(value, str) or "\0" in value:
            continue
        wanted = os.path.join(directory, value) if publisher["relative_paths"] else value
        if publisher["tryExact"] and os.path.lexists(wanted) and not hidden(wanted):
            result.replace(place, wanted)
        elif publisher["glob"]:
            found = [path for path in library.sorted_glob(wanted) if not hidden(path)]
            if found:
                result.replace(place, found)
    return result
