"""The command logs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from drawbar import control, report
from drawbar.cli.common import App
from drawbar.cli.failures import say
from drawbar.errors import UsageError
from drawbar.home import RunDirectory
from drawbar.options import did_you_mean

_CHUNK = 1 << 20


@click.command()
@click.argument("run")
@click.option("--step", metavar="S", help="Only the jobs of this step.")
@click.option("--engine", is_flag=True, help="The engine's log instead, and what the engine printed.")
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run has ended.")
@click.pass_obj
def logs(app: App, run: str, step: str | None, engine: bool, follow: bool) -> None:
    """Print what the jobs of a run wrote on standard output and error.

    \b
    Examples:
      drawbar logs dimuon --step fit
      drawbar logs dimuon --follow
      drawbar logs dimuon --engine
    """
    directory = app.find(run)
    if engine and step:
        raise click.UsageError("--engine and --step exclude each other")
    printer = _Printer(directory, step, engine)
    if follow:
        control.wait(directory, look=printer.print_new)
    printer.print_new()
    if step and not printer.printed and not printer.steps:
        _complain(directory, step)


class _Printer:
    """Prints what log files have more than when it last looked."""

    def __init__(self, directory: RunDirectory, step: str | None, engine: bool) -> None:
        self._directory = directory
        self._step = step
        self._engine = engine
        self._offsets: dict[Path, int] = {}
        self._last: Path | None = None
        self.printed = False
        self.steps = False
        """Whether any job of the step was seen."""

    def print_new(self) -> None:
        """Print what is new, each part under the name of what wrote it."""
        for title, path in self._files():
            self._print(title, path)
        sys.stdout.flush()

    def _files(self) -> Iterable[tuple[str, Path]]:
        if self._engine:
            yield "engine log", self._directory.engine_log
            yield "engine output", self._directory.engine_output
            return
        for row in report.attempts(self._directory):
            if self._step not in (None, row.step):
                continue
            self.steps = True
            number = f", attempt {row.number}" if row.number > 1 else ""
            for path in report.log_files(row):
                kind = " (stderr)" if path.name == "stderr" else ""
                yield f"{row.step}: {row.name}{number}{kind}", path

    def _print(self, title: str, path: Path) -> None:
        offset = self._offsets.get(path, 0)
        try:
            if path.stat().st_size <= offset or not path.is_file():
                return
            file = path.open("rb")
        except OSError:
            return  # nothing was written yet, or it has been removed
        with file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                if self._last != path:
                    self._write(f"{chr(10) if self._last else ''}==> {report.legible(title)} <==\n".encode())
                    self._last = path
                self._write(chunk)
                offset += len(chunk)
        self._offsets[path] = offset

    def _write(self, data: bytes) -> None:
        self.printed = True
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _complain(directory: RunDirectory, step: str) -> None:
    known = {row.step for row in report.attempts(directory)}
    if step in known:
        return
    hint = did_you_mean(step, known)
    if report.state_of(directory) in ("finished", "failed", "stopped"):
        raise UsageError(f"{directory.id} had no job of a step {step!r}" + (f" ({hint})" if hint else ""))
    say(f"{directory.id} has no job of a step {step!r} yet")
