"""Schemas that were kept are those that cwltool makes."""

import json
import os
import subprocess
import sys

COMPARE = """\
from drawbar_cwl import schemas
from cwltool import process

def described(schema, seen=()):
    if schema in seen:
        return schema.name
    seen = (*seen, schema)
    inner = getattr(schema, "schemas", None) or [getattr(each, "type", each) for each in
            [*getattr(schema, "fields", ()), getattr(schema, "items", None), getattr(schema, "values", None)]]
    return [type(schema).__name__, getattr(schema, "name", None), getattr(schema, "symbols", None),
            [each.name for each in getattr(schema, "fields", ())],
            [described(each, seen) for each in inner if hasattr(each, "type")]]

def all_of(found):
    loader, names, _, meta = found
    described_names = {name: described(each) for name, each in names.names.items()}
    types = {name: meta.idx[name] for name in schemas._TYPES}
    return loader.ctx, loader.cache, loader.vocab, described_names, types

for version in ("v1.0", "v1.1", "v1.2"):
    made = schemas.get(version)
    process.SCHEMA_CACHE.clear()
    kept = schemas.get(version)
    assert kept is not made and all_of(kept) == all_of(made)
"""


def python(code, cache):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_is_kept_is_what_is_made(tmp_path):
    python(COMPARE, tmp_path)


def test_a_spoilt_or_missing_cache_is_no_error(tmp_path):
    read = "from drawbar_cwl import schemas; assert 'CommandLineTool' in schemas.get('v1.2')[0].vocab"
    python(read, tmp_path)
    (kept,) = tmp_path.rglob("v1.2.json")
    whole = kept.read_text()
    for spoilt in (whole[:1000], "[]", "{}"):
        kept.write_text(spoilt)
        python(read, tmp_path)
        assert json.loads(kept.read_text()) == json.loads(whole)
    (tmp_path / "file").touch()
    python(read, tmp_path / "file")
