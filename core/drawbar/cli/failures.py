"""How the command line tells of errors: what, where and what to do; a stack trace only when asked for."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Iterable

import click

from drawbar.errors import DrawbarError, InfrastructureError, Problem, Severity, SpecError
from drawbar.report import legible


def explain(error: Exception) -> int:
    """Write an error for people on standard error; returns the exit status that it means."""
    if os.environ.get("DRAWBAR_TRACEBACK") == "1":
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        if context is not None:
            say(context.get_usage())
        say(f"drawbar: error: {error.format_message()}")
        return 2
    if isinstance(error, SpecError):
        show_problems(error.problems)
        return error.exit_status
    if isinstance(error, DrawbarError):
        say(f"drawbar: error: {error}")
        return error.exit_status
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        say(f"drawbar: error: {error.strerror}{place}")
        return InfrastructureError.exit_status
    say(f"drawbar: error: this should not happen: {type(error).__name__}: {error}")
    say(f"  {_kept(error)}; please report it")
    return InfrastructureError.exit_status


def show_problems(problems: Iterable[Problem]) -> None:
    """Write problems, one on a line, on standard error."""
    for problem in problems:
        kind = "error" if problem.severity is Severity.ERROR else "warning"
        say(f"drawbar: {kind}: {problem}")


def say(text: str) -> None:
    """Write a line on standard error; nobody has to be there to read it."""
    try:
        click.echo(legible(text), err=True)
    except OSError:  # a closed terminal, a closed pipe
        return


def _kept(error: Exception) -> str:
    """Where the stack trace was written."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="drawbar-", suffix=".txt")
        with open(descriptor, "w") as file:  # noqa: PTH123 (a file descriptor)
            traceback.print_exception(error, file=file)
    except OSError as failure:
        return f"the stack trace could not be written: {failure}"
    return f"the stack trace is in {path}"
