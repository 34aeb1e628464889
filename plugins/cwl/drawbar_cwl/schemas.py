"""The schemas of the language, kept in a cache of the user's.

cwltool makes a schema from its YAML in every process anew, which takes longer than everything else that it
does for a small workflow. What comes of that is plain data, and the same as long as the versions are.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from cwltool import process
from schema_salad import schema as salad
from schema_salad.ref_resolver import Loader
from schema_salad.sourceline import cmap
from schema_salad.utils import convert_to_dict

_MAIN = "https://w3id.org/cwl/CommonWorkflowLanguage.yml"
_TYPES = (
    "https://w3id.org/cwl/salad#Any",
    "https://w3id.org/cwl/cwl#File",
    "https://w3id.org/cwl/cwl#Directory",
)
"""What cwltool takes from the schema of v1.0 for every process."""

_make = process.get_schema


def install() -> None:
    """Have cwltool use what is kept."""
    process.get_schema = get


def get(version: str) -> Any:
    """The schema of a version of the language, as `cwltool.process.get_schema` gives it.

    The metadata of a schema that was kept is left out; cwltool does not use it.
    """
    if version in process.SCHEMA_CACHE or version in process.custom_schemas:
        return _make(version)
    path = _directory() / f"{version}.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        process.SCHEMA_CACHE[version] = _restored(json.loads(path.read_bytes()))
        return process.SCHEMA_CACHE[version]
    made = _make(version)
    with contextlib.suppress(OSError):  # it is made anew the next time
        _write(path, json.dumps(_plain(made)))
    return made


@functools.cache
def _directory() -> Path:
    """Where schemas are kept that these versions of the libraries made."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(home) if home.startswith("/") else Path.home() / ".cache"
    versions = [version_of(name) for name in ("drawbar", "cwltool", "schema-salad")]
    return root / "drawbar" / "cwl" / "-".join(versions)


def _plain(schema: Any) -> dict[str, Any]:
    loader, _, _, meta = schema
    described, _ = meta.resolve_ref(_MAIN, "")
    _, language, own = salad.get_metaschema()
    return {
        "schema": _part(loader, described, meta.vocab),
        "types": {name: meta.idx[name] for name in _TYPES},
        "metaschema": _part(own, language, own.vocab),
    }


def _part(loader: Loader, described: Any, vocabulary: dict[str, str]) -> dict[str, Any]:
    return {
        "context": loader.ctx,
        "cache": {url: text for url, text in loader.cache.items() if isinstance(text, str)},
        "avro": convert_to_dict(salad.make_avro(described, loader, vocabulary)),
    }


def _restored(kept: dict[str, Any]) -> Any:
    if salad.cached_metaschema is None:
        part = kept["metaschema"]
        names = salad.make_avro_schema_from_avro(part["avro"])
        loader = Loader(part["context"], cache=dict(part["cache"]), salad_version="v1.3")
        salad.cached_metaschema = (names, [], loader)
    part = kept["schema"]
    names = salad.make_avro_schema_from_avro(part["avro"])
    types: dict[str, Any] = {name: cmap(kept["types"][name]) for name in _TYPES}
    return Loader(part["context"], cache=dict(part["cache"])), names, {}, Loader({}, idx=types)


def _write(path: Path, text: str) -> None:
    """Write the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".", delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
