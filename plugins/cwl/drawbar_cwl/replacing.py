"""Has cwltool use functions of drawbar in place of its own, while a workflow is executed and no longer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

Replacement = tuple[ModuleType, str, Any]
"""A module of cwltool, a name in it, and what is to stand there."""


@contextmanager
def replaced(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Put replacements in place; afterwards, whatever happens, everything is as it was before."""
    before = [(module, name, getattr(module, name)) for module, name, _ in replacements]
    try:
        for module, name, new in replacements:
            setattr(module, name, new)
        yield
    finally:
        for module, name, old in before:
            setattr(module, name, old)
