"""What determines the result of a job: the tool, its inputs, its command, without places.

Directories of the run become placeholders, and a file of the input object becomes a reference to
the spec's `inputs`, whose contents enter the key. A reference is named by its place in the object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwltool.pathmapper import PathMapper
from cwltool.update import ORIGINAL_CWLVERSION
from drawbar.model import Input
from schema_salad.ref_resolver import uri_file_path

if TYPE_CHECKING:
    from drawbar_cwl.tools import Tool

_SETTLED = frozenset(
    {"id", "label", "doc", "intent", "requirements", "hints", "name", "default", "$schemas", "$namespaces"}
)
"""What of a description does not matter, or is in the canonical form in another shape."""
_RULES = ("InlineJavascriptRequirement", "SchemaDefRequirement", "LoadListingRequirement")
"""Requirements that say how expressions and values are read."""
_DERIVED = frozenset(
    {"location", "path", "dirname", "nameroot", "nameext", "size", "checksum", "contents", "listing"}
    | {"secondaryFiles", "http://commonwl.org/cwltool#generation"}
)
"""Fields of a file that follow from its content and its name."""
_RESOURCES = re.compile(r"runtime\.(cores|ram|tmpdirSize|outdirSize)|runtime\[")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DOCUMENT = re.compile(r"^[a-z]+://[^#]*#")


class Places:
    """The directories of a run, as placeholders in texts."""

    def __init__(self, workspace: Path, jobs: Path) -> None:
        boundary = r"(?:(?<=file://)|(?<![\w./~-]))"
        names = {"jobs": str(jobs), "workspace": str(workspace)}
        longest = sorted(names.items(), key=lambda item: -len(item[1]))
        either = "|".join(f"(?P<{name}>{re.escape(path)})" for name, path in longest)
        self._pattern = re.compile(rf"{boundary}(?:{either})(?:/(?P<rest>[^/\s]+))?(?![\w.-])")

    def hide(self, text: str, own: str) -> str:
        """The text with the job's own directory, named `own`, and those of the run as placeholders."""

        def placeholder(match: re.Match[str]) -> str:
            rest = match["rest"]
            if match["jobs"] and rest == own:
                return "<job>"
            return f"<{'jobs' if match['jobs'] else 'workspace'}>" + (f"/{rest}" if rest else "")

        return self._pattern.sub(placeholder, text)


class Canonical:
    """The canonical form of one job's values; `inputs` are the files that are found in them."""

    def __init__(self, places: Places, own: str, mapper: PathMapper) -> None:
        self.inputs: dict[str, Input] = {}
        self._places = places
        self._own = own
        self._mapper = mapper

    def of(self, value: Any, pointer: str) -> Any:
        """A JSON value without places; `pointer` is where in the job it stands."""
        if isinstance(value, str):
            return self._places.hide(value, self._own)
        if isinstance(value, dict):
            if value.get("class") in ("File", "Directory") and "location" in value:
                return self._file(value, pointer)
            return {str(key): self.of(each, f"{pointer}/{key}") for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(each, f"{pointer}/{number}") for number, each in enumerate(value)]
        return value

    def _file(self, file: Mapping[str, Any], pointer: str) -> dict[str, Any]:
        form = {key: self.of(each, f"{pointer}/{key}") for key, each in file.items() if key not in _DERIVED}
        location = str(file["location"])
        if location.startswith("_:"):
            for key in ("contents", "listing"):
                if key in file:
                    form[key] = self.of(file[key], f"{pointer}/{key}")
        else:
            self.inputs[pointer] = Input(path=self._path(location), name=pointer)
            form["input"] = pointer
        if file.get("secondaryFiles"):
            form["secondaryFiles"] = self.of(file["secondaryFiles"], f"{pointer}/secondaryFiles")
        return form

    def _path(self, location: str) -> str:
        if location in self._mapper:
            resolved = self._mapper.mapper(location).resolved
            if resolved.startswith("/"):
                return resolved
        return uri_file_path(location) if location.startswith("file:") else location


def of_tool(tool: Tool) -> Any:
    """What of a tool's description determines the results of its jobs."""
    rules = [tool.get_requirement(name)[0] for name in _RULES]
    return {
        "version": tool.metadata.get(ORIGINAL_CWLVERSION),
        "tool": _plain({key: value for key, value in tool.tool.items() if key not in _SETTLED}),
        "rules": [_plain(rule) for rule in rules if rule],
    }


def uses_resources(tool: Any) -> bool:
    """Whether expressions of a canonical tool read what resources the job gets."""
    return bool(_RESOURCES.search(str(tool)))


def _plain(value: Any) -> Any:
    """Plain data in which identifiers are short."""
    if isinstance(value, Mapping):
        plain = {
            str(key): _plain(each) for key, each in value.items() if key not in ("default", "doc", "label")
        }
        if "id" in plain:
            plain["id"] = re.split(r"[#/]", str(plain["id"]))[-1]
        return plain
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return _UUID.sub("<uuid>", _DOCUMENT.sub("#", value))
    return value
