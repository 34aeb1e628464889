"""jq programs and JSONPaths, each compiled once."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_MOST = 4096


@lru_cache(_MOST)
def jq(program: str) -> Any:
    """A compiled jq program; ValueError says what is wrong with it."""
    import jq

    return jq.compile(program)


@lru_cache(_MOST)
def jsonpath(text: str) -> Any:
    """A compiled JSONPath; any exception says what is wrong with it."""
    from jsonpath_rw.parser import JsonPathParser

    return JsonPathParser().parse(text)
