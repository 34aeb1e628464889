"""YAML and JSON files, read safely, with the line of every value.

Documents come from strangers. So they are read in two passes, neither of which recurses: the first
makes a graph of nodes in which an alias is a shared node, and counts what the document would be
with every alias written out; only when that is within the limits, the second makes plain values. A
document that explodes costs no more than its own text.

Values are those of JSON. Scalars follow YAML 1.1 as PyYAML reads it (`yes` and `off` are booleans),
with these differences: dates are text; a key is text as written, whatever type it looks like; a
plain scalar of more than 100 characters is text; NaN, infinity and a key that is given twice are
errors.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from drawbar.errors import Problem, SpecError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXT_TAGS = frozenset(_TAG + name for name in ("str", "timestamp", "value", "merge"))
_LONGEST_PLAIN_VALUE = 100
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]|[^][{}",:\s]+', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a document may be. `nodes` and `text` count aliases as if they were written out."""

    bytes: int = 8 * 2**20
    nodes: int = 200_000
    depth: int = 100
    text: int = 32 * 2**20
    """Characters of all scalars, and of all pointers, together."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document's value, made of plain JSON types, and the line of each place in it.

    Places are pointers such as `workflow.specification.steps.0.commands.1`; the whole document is
    the empty pointer. Lines count from 1. A member of a mapping is where its key is.
    """

    value: Any
    path: str
    lines: Mapping[str, int]


def load(path: Path, *, shown: str | None = None, limits: Limits = Limits()) -> Document:
    """The document in a file: JSON when it is called `.json`, YAML else.

    `shown` is how messages call the file. Raises `SpecError`, with file and line, when the file
    cannot be read, is no such document, or passes the limits.
    """
    shown = shown or str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpecError(Problem(message="is not a regular file", file=shown))
        with path.open("rb") as file:
            data = file.read(limits.bytes + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(Problem(message=f"cannot be read: {reason}", file=shown)) from error
    if len(data) > limits.bytes:
        raise SpecError(Problem(message=f"is larger than {limits.bytes} bytes", file=shown))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(Problem(message="is not UTF-8 text", file=shown, line=line)) from error
    return parse(text, shown, json_syntax=path.suffix == ".json", limits=limits)


def parse(text: str, path: str, *, json_syntax: bool = False, limits: Limits = Limits()) -> Document:
    """The document in a text; `path` is how messages call it. Raises `SpecError` as `load` does."""
    builder = _Builder(path, limits)
    (_read_json if json_syntax else _read_yaml)(text, builder)
    return builder.document()


def scalar(text: str) -> Any:
    """What a plain YAML scalar stands for: a number, a boolean, null, or the text itself.

    Raises `ValueError` for NaN and infinity.
    """
    return _Scalars().value(text, None, (True, False))


def brief(value: Any, length: int = 60) -> str:
    """A value as messages show it: on one line, and not long."""
    if isinstance(value, str):
        value = value[: length + 1]
    elif isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= length + 2 else text[:length] + "…"


def _read_yaml(text: str, builder: _Builder) -> None:
    scalars = _Scalars()
    documents = 0
    line = 1
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    try:
        for event in events:
            line = event.start_mark.line + 1
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        builder.fail("a second document begins here", line, "keep one document in the file")
                case yaml.AliasEvent():
                    builder.alias(str(event.anchor), line)
                case yaml.ScalarEvent():
                    value = scalars.value(event.value, event.tag, event.implicit)
                    merge = event.value == "<<" and event.implicit[0]
                    builder.scalar(value, event.value, line, event.anchor, merge=merge)
                case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                    mapping = isinstance(event, yaml.MappingStartEvent)
                    if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
                        raise ValueError(f"the tag {_short(event.tag)} is not allowed")
                    builder.open(line, event.anchor, mapping=mapping)
                case yaml.CollectionEndEvent():
                    builder.close()
    except ValueError as error:
        builder.fail(str(error), line, "write it in quotes if it is meant as text")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        line = min(mark.line + 1, text.rstrip().count("\n") + 1) if mark else line
        tabbed = mark is not None and re.match(r" *\t", "".join(text.split("\n", line)[line - 1 : line]))
        if "nesting depth" in what:  # libyaml 0.2.6 and later give up before the events come
            builder.too_deep(line)
        hint = "indent with spaces, not with tabs" if tabbed else None
        builder.fail(f"not valid YAML: {what}", line, hint)


class _Scalars(yaml.resolver.Resolver, yaml.constructor.SafeConstructor):
    """PyYAML's rules for what a scalar stands for."""

    def __init__(self) -> None:
        yaml.resolver.Resolver.__init__(self)
        yaml.constructor.SafeConstructor.__init__(self)

    def value(self, text: str, tag: str | None, implicit: tuple[bool, bool]) -> Any:
        """The value of a scalar; `ValueError` says why it has none."""
        if tag in (None, "!"):
            if len(text) > _LONGEST_PLAIN_VALUE or not implicit[0]:
                return text
            resolved: Any = self.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
            tag = str(resolved)
        if tag in _TEXT_TAGS:
            return text
        if tag == _TAG + "null":
            return None
        construct: Any = {
            _TAG + "bool": self.construct_yaml_bool,
            _TAG + "int": self.construct_yaml_int,
            _TAG + "float": self.construct_yaml_float,
        }.get(str(tag))
        if construct is None:
            raise ValueError(f"the tag {_short(tag)} is not allowed")
        if len(text) > _LONGEST_PLAIN_VALUE:
            raise ValueError(f"{brief(text)} is too long for a number")
        try:
            value = construct(yaml.ScalarNode(tag, text))
        except (ValueError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"{brief(text)} is no {_short(tag)}") from error
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{brief(text)} is not a finite number")
        return value


def _short(tag: object) -> str:
    return brief(str(tag).replace(_TAG, "!!", 1)).strip("'")


def _read_json(text: str, builder: _Builder) -> None:
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        builder.fail(f"not valid JSON: {error.msg}", error.lineno)
    except RecursionError:
        builder.too_deep(1)
    line, end = 1, 0
    for token in _JSON_TOKEN.finditer(text):
        line += text.count("\n", end, token.start())
        end = token.start()
        match word := token.group():
            case "{" | "[":
                builder.open(line, None, mapping=word == "{")
            case "}" | "]":
                builder.close()
            case _:
                try:
                    value = _json_scalar(word)
                except ValueError as error:
                    builder.fail(str(error), line)
                builder.scalar(value, value if isinstance(value, str) else word, line)


def _json_scalar(word: str) -> Any:
    if word[0] != '"' and len(word) > _LONGEST_PLAIN_VALUE:
        raise ValueError(f"{brief(word)} is too long for a number")
    value = json.loads(word)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{word} is not a finite number")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{brief(word)} holds half of a character") from error
    return value


@dataclass(slots=True)
class _Node:
    """A value in the graph. `nodes`, `text` and `depth` count what it holds, aliases written out."""

    line: int
    value: Any = None
    raw: str | None = None
    merge: bool = False
    mapping: bool = False
    children: dict[str, tuple[int, _Node]] | None = None
    anchor: str | None = None
    key: _Node | None = None
    merged: dict[str, tuple[int, _Node]] | None = None
    nodes: int = 1
    text: int = 0
    depth: int = 0


@dataclass(slots=True)
class _Builder:
    """Makes the graph of nodes from what a reader meets, and then the document."""

    path: str
    limits: Limits
    root: _Node | None = None
    stack: list[_Node] = field(default_factory=list)
    anchors: dict[str, _Node | None] = field(default_factory=dict)
    made: int = 0

    def fail(self, message: str, line: int, hint: str | None = None) -> NoReturn:
        raise SpecError(Problem(message=message, file=self.path, line=line, hint=hint))

    def too_deep(self, line: int) -> NoReturn:
        self.fail(f"is nested deeper than {self.limits.depth} levels", line)

    def too_large(self, line: int) -> NoReturn:
        hint = "write fewer or smaller aliases (*name)" if self.anchors else None
        what = f"{self.limits.nodes} values or {self.limits.text} characters"
        self.fail(f"holds more than {what}", line, hint)

    def open(self, line: int, anchor: str | None, *, mapping: bool) -> None:
        if len(self.stack) >= self.limits.depth:
            self.too_deep(line)
        if self._key_is_next():
            self.fail("a key must be text", line)
        if anchor:
            self.anchors[anchor] = None
        self.stack.append(_Node(line, mapping=mapping, children={}, anchor=anchor))
        self._count(1, line)

    def close(self) -> None:
        node = self.stack.pop()
        if node.merged is not None:
            node.children = {**node.merged, **(node.children or {})}
        if node.anchor:
            self.anchors[node.anchor] = node
        self._add(node, node.line)

    def scalar(
        self, value: Any, raw: str, line: int, anchor: str | None = None, *, merge: bool = False
    ) -> None:
        node = _Node(line, value, raw, merge=merge, text=len(raw))
        if anchor:
            self.anchors[anchor] = node
        self._count(1, line)
        self._add(node, line)

    def alias(self, name: str, line: int) -> None:
        if name not in self.anchors:
            self.fail(f"the alias *{brief(name)} has no anchor", line)
        node = self.anchors[name]
        if node is None:
            self.fail(f"the alias *{brief(name)} refers to what it is part of", line)
        if len(self.stack) + node.depth > self.limits.depth:
            self.too_deep(line)
        self._count(1, line)
        self._add(node, line)

    def _key_is_next(self) -> bool:
        return bool(self.stack) and self.stack[-1].mapping and self.stack[-1].key is None

    def _add(self, node: _Node, line: int) -> None:
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        children = parent.children
        assert children is not None
        if not parent.mapping:
            children[str(len(children))] = line, node
        elif parent.key is None:
            if node.raw is None:
                self.fail("a key must be text", line)
            if node.raw in children:
                first = children[node.raw][0]
                self.fail(f"the key {brief(node.raw)} is given twice, first on line {first}", line)
            parent.key = _Node(line, raw=node.raw, merge=node.merge)
        else:
            key, parent.key = parent.key, None
            if key.merge:
                self._merge(parent, node, line)
            else:
                assert key.raw is not None
                children[key.raw] = key.line, node
        parent.nodes += node.nodes
        parent.text += node.text
        parent.depth = max(parent.depth, node.depth + 1)
        if parent.nodes > self.limits.nodes or parent.text > self.limits.text:
            self.too_large(line)

    def _merge(self, parent: _Node, node: _Node, line: int) -> None:
        """`<<: *name` or `<<: [*one, *two]`: the keys of other mappings, behind those given here."""
        sources = [node] if node.mapping or node.children is None else [n for _, n in node.children.values()]
        if parent.merged is not None:
            self.fail("<< is given twice; merge a list of mappings", line)
        merged: dict[str, tuple[int, _Node]] = {}
        for source in sources:
            if not source.mapping or source.children is None:
                self.fail("only mappings can be merged with <<", line)
            self._count(len(source.children or ()), line)
            merged = {**(source.children or {}), **merged}
        parent.merged = merged

    def _count(self, nodes: int, line: int) -> None:
        self.made += nodes
        if self.made > self.limits.nodes:
            self.too_large(line)

    def document(self) -> Document:
        """The value of the graph, every alias a value of its own."""
        root = self.root or _Node(1)
        lines = {"": root.line}
        value = _empty(root)
        room = self.limits.text
        todo = [(root, "", value)]
        while todo:
            node, place, container = todo.pop()
            for key, (line, child) in (node.children or {}).items():
                pointer = f"{place}.{key}" if place else key
                room -= len(pointer)
                if room < 0:
                    self.too_large(line)
                lines[pointer] = line
                item = _empty(child)
                if node.mapping:
                    container[key] = item
                else:
                    container.append(item)
                if child.children:
                    todo.append((child, pointer, item))
        return Document(value, self.path, lines)


def _empty(node: _Node) -> Any:
    if node.children is None:
        return node.value
    return {} if node.mapping else []
