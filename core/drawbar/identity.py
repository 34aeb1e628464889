"""What a job is called and what its result depends on.

Three names, each for one purpose: the *identity* says which job of the run it is, the *key* what its
result depends on, the *tag* which attempt of it a backend holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from drawbar.model import JobSpec

_SAFE_LENGTH = 60
_DIGEST = re.compile(r"[0-9a-f]{32,}")
_SHOWN_LENGTH = 60


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: keys sorted, no spaces, ASCII.

    Raises ValueError for what has no such text: NaN, infinities, objects of other types.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"no canonical JSON: {error}") from error
    return text.encode()


def key_document(
    spec: JobSpec, digest_of: Callable[[str], str], image_digest: str | None = None
) -> dict[str, Any]:
    """Everything that the job's result depends on, for the key and for explaining a change of it.

    `digest_of` gives the digest of an input's content; `image_digest` is that of the image, where known.
    """
    inputs = sorted([each.name, digest_of(each.path)] for each in spec.inputs)
    document = {"canonical": spec.canonical, "inputs": inputs, "image": spec.image}
    return document if image_digest is None else {**document, "image_digest": image_digest}


def key_of(spec: JobSpec, digest_of: Callable[[str], str]) -> str:
    """The job's key: equal keys promise equal results. 64 hexadecimal digits."""
    return digest(key_document(spec, digest_of))


def digest(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def tag_of(run_id: str, created: float, identity: str, try_number: int, key: str, attempt: int) -> str:
    """What a backend calls one attempt: unique over all runs, [a-z0-9-], 35 characters, a letter first.

    `created` is when the run was made: homes of several users may have runs of one id.
    """
    return f"db-{digest([run_id, created, identity, try_number, key, attempt])[:32]}"


def directory_name(identity: str) -> str:
    """A file name for an identity: readable, unique, at most 100 characters, on any file system."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", identity).strip("-.")[:_SAFE_LENGTH]
    unique = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{readable}-{unique}" if readable else unique


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In words, what differs between two key documents of one job; empty when nothing does."""
    changes = _changes("", old.get("canonical"), new.get("canonical"))
    before, after = dict(old.get("inputs", ())), dict(new.get("inputs", ()))
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"input {name} is no longer one")
        elif name not in before:
            changes.append(f"input {name} is new")
        elif before[name] != after[name]:
            changes.append(f"input {name} changed")
    changes += _changes("image", old.get("image"), new.get("image"))
    if old.get("image") == new.get("image") and old.get("image_digest") != new.get("image_digest"):
        changes.append(f"the image {new.get('image')} is another one now")
    return "; ".join(changes)


def _changes(name: str, old: Any, new: Any) -> list[str]:
    if old == new and type(old) is type(new):
        return []
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changes = []
        for key in sorted(old.keys() | new.keys(), key=str):
            place = f"{name}.{key}" if name else str(key)
            if key not in new:
                changes.append(f"{place} is gone")
            elif key not in old:
                changes.append(f"{place} is new")
            else:
                changes += _changes(place, old[key], new[key])
        return changes
    place = name or "the job"
    if place == "after":
        return ["a job before it changed"]
    shown = [_shown(value) for value in (old, new)]
    if None in shown:
        return [f"{place} changed"]
    return [f"{place} changed from {shown[0]} to {shown[1]}"]


def _shown(value: Any) -> str | None:
    """A value as it may stand in a sentence, or None when it is too long or means nothing to a reader."""
    if isinstance(value, Mapping | list | tuple):
        return None
    text = "none" if value is None else str(value)
    if len(text) > _SHOWN_LENGTH or "\n" in text or _DIGEST.fullmatch(text):
        return None
    return text if value is None else repr(value)
