"""Reads a workflow: its file, what its `$ref`s lead to, and where in which file each part stands.

References are resolved as yadage resolves them: in the workflow file against `toplevel`, in any other
file against that file's own directory. Only files inside the analysis are read.
"""

# Paths of a specification are texts, and stay so.
# ruff: noqa: PTH118, PTH120
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from drawbar.documents import Document, brief, load
from drawbar.engine import Source
from drawbar.errors import Problem, SpecError
from drawbar.paths import existing

from drawbar_yadage import remote
from drawbar_yadage.remote import refuse_remote

_MOST_PARTS = 200_000
_DEEPEST = 100
Place = tuple[str, int | None]


@dataclass(slots=True)
class Specification:
    """A workflow with every reference written out. `places` gives file and line of each pointer."""

    value: Any
    places: dict[str, Place] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    """The workflow's own files, relative to the analysis."""

    def place(self, pointer: str) -> Place:
        """Where a part of the workflow stands, or the nearest one around it."""
        while pointer and pointer not in self.places:
            pointer = pointer.rpartition(".")[0]
        return self.places.get(pointer, ("", None))

    def problem(self, pointer: str, message: str, **more: Any) -> Problem:
        """A problem with a part of the workflow."""
        file, line = self.place(pointer)
        return Problem(message=message, file=file or None, line=line, pointer=pointer, **more)


def read(source: Source, root: Path, toplevel: str | None, *, network: bool = False) -> Specification:
    """The workflow of a source, whose files are in `root`; `network` says whether any may be fetched.

    Raises `SpecError` for what cannot be read.
    """
    here = Problem(message="", file=str(source.document))
    if toplevel is not None and not network:
        refuse_remote("toplevel", toplevel, here)
    expander = _Expander(root, toplevel or "", network)
    if source.specification is not None:
        document = Document(source.specification, str(source.document), source.lines)
        return expander.whole(document, "workflow.specification", None)
    if source.file is None:
        raise SpecError(Problem(message="a yadage workflow needs a file", file=str(source.document)))
    name = os.path.relpath(source.root / source.file, source.root)
    refuse_remote("workflow file", name, here)
    if remote.is_remote(toplevel or ""):
        return expander.whole(
            expander.document(remote.address(toplevel or "", name, here)), "", source.fragment
        )
    below = os.path.normpath(os.path.join(toplevel or "", name))
    name = below if os.path.lexists(root / below) else name
    return expander.whole(expander.document(name), "", source.fragment)


class _Expander:
    def __init__(self, root: Path, toplevel: str, network: bool) -> None:
        self.root = root
        self.toplevel = toplevel
        self.network = network
        self.documents: dict[str, Document] = {}
        self.made = Specification(None)
        self.parts = 0

    def document(self, name: str) -> Document:
        if name not in self.documents:
            if remote.is_remote(name):
                self.documents[name] = remote.fetch(name)
            else:
                path = existing(self.root, name, "$ref")
                self.documents[name] = load(path, shown=name)
        return self.documents[name]

    def whole(self, document: Document, prefix: str, fragment: str | None) -> Specification:
        value = document.value
        if fragment:
            value, prefix = self._within(document, fragment, Problem(message="", file=document.path))
        self.made.value = self._expand(value, document, prefix, "", ())
        self.made.files = tuple(sorted(name for name in self.documents if not remote.is_remote(name)))
        return self.made

    def _expand(
        self, value: Any, document: Document, pointer: str, place: str, chain: Sequence[tuple[str, str]]
    ) -> Any:
        self.parts += 1
        line = document.lines.get(pointer)
        if place not in self.made.places:
            self.made.places[place] = (document.path, line)
        if self.parts > _MOST_PARTS:
            self._wrong(
                document, line, f"with its references, the workflow has more than {_MOST_PARTS} parts"
            )
        if place.count(".") > _DEEPEST:
            self._wrong(document, line, f"with its references, the workflow is deeper than {_DEEPEST} levels")
        if isinstance(value, Mapping):
            if isinstance(value.get("$ref"), str):
                return self._refer(value["$ref"], document, f"{pointer}.$ref".lstrip("."), place, chain)
            return {
                key: self._expand(item, *self._step(document, pointer, place, key), chain)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [
                self._expand(item, *self._step(document, pointer, place, str(number)), chain)
                for number, item in enumerate(value)
            ]
        return value

    @staticmethod
    def _step(document: Document, pointer: str, place: str, key: str) -> tuple[Document, str, str]:
        return document, f"{pointer}.{key}" if pointer else key, f"{place}.{key}" if place else key

    def _refer(
        self, reference: str, document: Document, pointer: str, place: str, chain: Sequence[tuple[str, str]]
    ) -> Any:
        where = Problem(message="", file=document.path, line=document.lines.get(pointer))
        if not self.network:
            refuse_remote("$ref", reference, where)
        file, _, fragment = reference.partition("#")
        target = document if not file else self._target(unquote(file), document, where)
        if (target.path, fragment) in chain:
            self._wrong(document, where.line, f"the $ref {brief(reference)} leads back to itself")
        value, inner = self._within(target, fragment, where)
        return self._expand(value, target, inner, place, (*chain, (target.path, fragment)))

    def _target(self, file: str, document: Document, where: Problem) -> Document:
        if remote.is_remote(file) or remote.is_remote(document.path):
            return self.document(remote.relative(document.path, file, where))
        own = os.path.dirname(document.path) if document.path in self.documents else ""
        first = not self.documents or document.path == next(iter(self.documents))
        bases = (self.toplevel, own) if first or document.path not in self.documents else (own, self.toplevel)
        names = [os.path.normpath(os.path.join(base, file)) for base in bases]
        for name in names:
            if not name.startswith("..") and os.path.lexists(self.root / name):
                return self.document(name)
        message = f"the $ref leads to {brief(file)}, and there is no {' nor '.join(dict.fromkeys(names))}"
        raise SpecError(Problem(message=message, file=where.file, line=where.line))

    def _within(self, document: Document, fragment: str, where: Problem) -> tuple[Any, str]:
        """The part of a document that a JSON pointer means, and its place there."""
        value, parts = document.value, []
        for part in fragment.strip("/").split("/") if fragment.strip("/") else ():
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            parts.append(key)
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                known = ", ".join(value) if isinstance(value, Mapping) else None
                hint = f"there are: {known}" if known else None
                message = f"there is no {brief(fragment)} in {document.path}"
                raise SpecError(Problem(message=message, file=where.file, line=where.line, hint=hint))
        return value, ".".join(parts)

    @staticmethod
    def _wrong(document: Document, line: int | None, message: str) -> NoReturn:
        raise SpecError(Problem(message=message, file=document.path, line=line))


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts(item)
