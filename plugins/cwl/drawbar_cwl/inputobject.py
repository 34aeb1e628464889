"""Reads input objects: what is JSON as JSON, in a tenth of the time that YAML takes."""

from __future__ import annotations

import json
from typing import Any

from cwltool.load_tool import jobloader_id_name
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.nodes import ScalarNode
from schema_salad.ref_resolver import Loader
from schema_salad.sourceline import cmap
from schema_salad.utils import yaml_no_ts

_SPECIAL = frozenset({"$import", "$include", "$mixin", jobloader_id_name})
"""Keys that mean something while a document is read; messages about them need lines."""

_NO_PLACE = [0, 0, 0, 0]
"""Lines and columns of a key and its value."""


class InputObjectLoader(Loader):
    """Reads JSON with the meaning that it has as YAML, of which it is a part."""

    def fetch(self, url: str, inject_ids: bool = True, content_types: list[str] | None = None) -> Any:
        """The document at a URL, as `Loader.fetch` gives it, save for the lines of what is in JSON."""
        if url in self.idx:
            return super().fetch(url, inject_ids, content_types)
        text = self.cache[url] = self.fetch_text(url, content_types)
        try:
            document: Any = cmap(_parse(text), fn=url)
        except ValueError:
            return super().fetch(url, inject_ids, content_types)
        if inject_ids:
            document[jobloader_id_name] = url
        self.idx[url] = document
        return document


def _parse(text: str) -> CommentedMap:
    """A JSON object. `ValueError` for everything else, and for what is better read as YAML."""
    constructor = yaml_no_ts().constructor

    def as_written(text: str) -> Any:
        """A number that remembers how it was written, for so cwltool writes it on command lines."""
        return constructor.construct_yaml_float(ScalarNode("tag:yaml.org,2002:float", text))

    value = json.loads(text, object_pairs_hook=_mapping, parse_float=as_written, parse_constant=_refuse)
    if not isinstance(value, CommentedMap):
        raise ValueError("not an object")
    return value


def _mapping(pairs: list[tuple[str, Any]]) -> CommentedMap:
    made = CommentedMap(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is given twice")
    if not _SPECIAL.isdisjoint(made):
        raise ValueError("a key is special")
    made.lc.data = dict.fromkeys(made, _NO_PLACE)  # asked for where a key is written in full
    return made


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
