"""Directories of steps: where a step may write, what it may read, and how its texts name them.

They stand in for yadage's `LocalFSProvider` and packtivity's `LocalFSState`, with the same layout
(`<workspace>/<stage>[_<index>]`, and so on inward for sub-workflows) and the same JSON form. They make
no directory, resolve no link, and do not depend on the order in which Python walks a set.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_NAMED = re.compile(r"\{(\w+)\}")


class State:
    """Directories that one step sees, as absolute paths."""

    datamodel = None

    def __init__(self, name: str, readwrite: Iterable[str], readonly: Iterable[str]) -> None:
        self.name = name
        self.readwrite = list(readwrite)
        self.readonly = sorted({*readonly} - {*self.readwrite})
        self.dirnames = {f"readdir{number}": path for number, path in enumerate(self.readonly)}
        if self.readwrite:
            self.dirnames["workdir"] = self.readwrite[0]

    @property
    def workdir(self) -> str | None:
        """The directory that the step may write to; None for the initial data of a scope."""
        return self.readwrite[0] if self.readwrite else None

    def identifier(self) -> str:
        """The name that yadage gives the state."""
        return self.name.replace("/", "_")

    def contextualize_value(self, value: Any) -> Any:
        """A text with `{workdir}` and the other names of directories filled in; all else as it is."""
        return fill(value, self.dirnames) if isinstance(value, str) else value

    def json(self) -> dict[str, Any]:
        """The form in which packtivity would read it."""
        names = {path: name for name, path in self.dirnames.items()}
        return {
            "state_type": "localfs",
            "identifier": self.identifier(),
            "readwrite": [{"path": path, "name": names[path]} for path in self.readwrite],
            "readonly": [{"path": path, "name": names[path]} for path in self.readonly],
        }


class Provider:
    """Makes the states of one scope. `initial` are the directories that the scope's initial data is in.

    `inner` are directories with initial data for sub-workflows, by stage: a path, or a mapping with
    `_data` and further stages.
    """

    datamodel = None

    def __init__(self, base: str, initial: Sequence[str], inner: Mapping[str, Any]) -> None:
        self.base = base
        self.init_states = [State("init", [], initial)] if initial else []
        self._inner = inner

    def new_state(self, name: str, dependencies: Iterable[State], readonly: bool = False) -> State:
        """The state of a step: its own directory, and those that its dependencies wrote, else read."""
        readable = [path for each in dependencies for path in each.readwrite or each.readonly]
        return State(name, [] if readonly else [posixpath.join(self.base, name)], readable)

    def new_provider(self, name: str, init_states: Iterable[State] = ()) -> Provider:
        """The provider for the sub-workflow of a step."""
        initial = [path for each in init_states for path in each.readwrite or each.readonly]
        inner = self._inner.get(name, {})
        if isinstance(inner, str):
            inner = {"_data": inner}
        if "_data" in inner:
            initial.append(inner["_data"])
        rest = {key: value for key, value in inner.items() if key != "_data"}
        return Provider(posixpath.join(self.base, name), initial, rest)

    def json(self) -> dict[str, Any]:
        """The form in which yadage would read it."""
        return {
            "state_provider_type": "localfs_provider",
            "base_state": State("base", [self.base], []).json(),
            "init_states": [state.json() for state in self.init_states],
            "nest": True,
            "ensure": False,
            "sub_init_states": {},
        }


def fill(text: str, names: Mapping[str, str]) -> str:
    """A text with names in braces filled in, as `str.format` does; braces that mean something else stay."""
    if "{" not in text and "}" not in text:
        return text
    try:
        return text.format(**names)
    except (KeyError, ValueError, IndexError, AttributeError):
        return _NAMED.sub(lambda match: names.get(match[1], match[0]), text)


def inside(path: str, directory: str | Path) -> bool:
    """Whether a path is a directory or in it, going by the text."""
    return path == str(directory) or path.startswith(f"{directory}/")
