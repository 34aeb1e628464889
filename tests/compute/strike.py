"""Runs drawbar's command line, and has it killed at one point.

    python strike.py before|after MODULE:FUNCTION|MODULE:CLASS.METHOD ARGUMENT...

The first time that the driver comes to the point, it kills itself with SIGKILL. Nothing of drawbar
knows of this.
"""

from __future__ import annotations

import functools
import importlib
import os
import runpy
import signal
import sys


def strike(when: str, point: str) -> None:
    """Wrap the function."""
    module, _, path = point.partition(":")
    kind, _, name = path.rpartition(".")
    owner = importlib.import_module(module)
    owner = getattr(owner, kind) if kind else owner
    function = getattr(owner, name)

    @functools.wraps(function)
    def struck(*args, **kwargs):
        if when == "after":
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, struck)


if __name__ == "__main__":
    when, point, *arguments = sys.argv[1:]
    strike(when, point)
    sys.argv = ["drawbar", *arguments]
    runpy.run_module("drawbar.cli", run_name="__main__", alter_sys=True)
