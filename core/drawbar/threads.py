"""Threads that nobody waits for: when one of them dies, whoever depends on it is told.

A backend learns of the ends of its jobs on such a thread. Without it a run would wait for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from drawbar.errors import DrawbarError

PREFIX = "drawbar"
"""How the names of these threads begin; others belong to the program that uses this package."""

_listeners: list[Callable[[str], None]] = []


@contextmanager
def watched(tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile `tell` gets a sentence, on the dying thread, for each of these that dies of an exception.

    A `DrawbarError` says itself what to do; any other is shown with its traceback as well, as Python does.
    """
    _install()
    _listeners.append(tell)
    try:
        yield
    finally:
        _listeners.remove(tell)


@cache
def _install() -> None:
    """Once, and for good: what is installed meanwhile may go on to this."""
    before = threading.excepthook

    def died(arguments: Any) -> None:
        name, error = arguments.thread.name if arguments.thread is not None else "", arguments.exc_value
        ours = name.startswith(PREFIX)
        if ours and _listeners and isinstance(error, DrawbarError):
            what = str(error)
        else:
            what = f"the thread {name} died of {error!r}, which is a mistake in its program"
            before(arguments)
        for tell in _listeners.copy() if ours else ():
            tell(what)

    threading.excepthook = died
