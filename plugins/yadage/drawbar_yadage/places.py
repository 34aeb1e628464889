"""Published values as they are remembered: paths in the workspace are written relative to it.

So a value means the same in another workspace. A text that is such a path becomes
`{"$workspace": "relative/path"}`; a mapping that has the look of one is wrapped in `{"$literal": …}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PLACE, _LITERAL = "$workspace", "$literal"


def encode(value: Any, workspace: Path) -> Any:
    """The form of a value that is remembered."""
    root = str(workspace)
    if isinstance(value, str):
        if value == root or value.startswith(f"{root}/"):
            return {_PLACE: value[len(root) + 1 :]}
        return value
    if isinstance(value, list):
        return [encode(item, workspace) for item in value]
    if isinstance(value, dict):
        inner = {key: encode(item, workspace) for key, item in value.items()}
        return {_LITERAL: inner} if value.keys() & {_PLACE, _LITERAL} else inner
    return value


def decode(value: Any, workspace: Path) -> Any:
    """The value that was encoded, for this workspace."""
    if isinstance(value, list):
        return [decode(item, workspace) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_PLACE}:
        return f"{workspace}/{value[_PLACE]}" if value[_PLACE] else str(workspace)
    inner = value[_LITERAL] if value.keys() == {_LITERAL} else value
    return {key: decode(item, workspace) for key, item in inner.items()}
