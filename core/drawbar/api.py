"""The Python API: `drawbar.run(...)` and what it returns. Documented in `docs/reference/api.md`.

A run is driven by a process of its own, in the background: it outlives the notebook that started it,
and a `Run` is only a name for its directory. So there is no global state here and no signal handler,
and any thread may do anything.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drawbar import control, report
from drawbar.analysis import load_analysis
from drawbar.creation import create_run, unfinished
from drawbar.errors import InfrastructureError, RunFailed
from drawbar.home import Home, RunDirectory
from drawbar.model import RunState
from drawbar.plugins import load_plugins
from drawbar.settings import load_settings

PathLike = str | os.PathLike[str]


class Run:
    """A run, by its directory. Everything is read afresh at every call."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    @property
    def id(self) -> str:
        """The run's id: its name and a number."""
        return self._directory.id

    @property
    def state(self) -> str:
        """Where the run is: created, queued, running, finished, failed, stopped, or interrupted."""
        return report.state_of(self._directory)

    @property
    def message(self) -> str:
        """Why it failed; empty when there is nothing to say."""
        return str(self._directory.state().get("message", ""))

    @property
    def workspace(self) -> Path:
        """The directory that the run works in."""
        return Path(self._directory.spec().workspace)

    def status(self) -> dict[str, Any]:
        """Everything about the run, as `drawbar status --json` prints it."""
        return report.document(self._directory)

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of the run, as `drawbar status --json` prints them."""
        return [report.job(row) for row in report.attempts(self._directory)]

    def outputs(self) -> list[Path]:
        """The files that the analysis declared as outputs; `RunFailed` when the run has not finished."""
        if self._directory.state().get("state") != RunState.FINISHED:
            raise RunFailed(f"{self.id} is {self.state} and has no outputs: {self.message}")
        return [self.workspace / each["path"] for each in report.outputs(self._directory)]

    def logs(self, step: str | None = None) -> str:
        """What the jobs of a step, or of all steps, wrote on standard output and error so far."""
        texts = []
        for row in report.attempts(self._directory):
            if step in (None, row.step):
                texts += [_text(path) for path in report.log_files(row)]
        return "".join(texts)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the run has ended, or is interrupted; returns its state.

        `TimeoutError` when it has not after `timeout` seconds. Interrupting this leaves the run alone.
        """
        if not control.wait(self._directory, timeout):
            raise TimeoutError(f"{self.id} is still {self.state} after {timeout:g} seconds")
        return self.state

    def cancel(self, timeout: float | None = 90.0) -> str:
        """Stop the run and its jobs; returns its state then, which is finished if it was faster.

        `TimeoutError` when its driver has not done so after `timeout` seconds.
        """
        if control.request_cancel(self._directory) is None and self.state == report.INTERRUPTED:
            control.start_driver(self._directory, ["--as-was", "--cancel"])
        return self.wait(timeout)

    def resume(
        self, *, from_step: str | None = None, as_was: bool = False, wait: bool = True, check: bool = True
    ) -> Run:
        """Go on with the run, as `drawbar resume` does; returns this run.

        With `check`, raises `RunFailed` when it does not finish.
        """
        arguments = [*(["--from", from_step] if from_step else []), *(["--as-was"] if as_was else [])]
        return self._go(arguments, {}, wait=wait, check=check)

    def _go(self, arguments: Sequence[str], settings: Mapping[str, Any], *, wait: bool, check: bool) -> Run:
        control.start_driver(
            self._directory, arguments, assignments=[f"{name}={value}" for name, value in settings.items()]
        )
        if not wait:
            return self
        try:
            self.wait()
        except KeyboardInterrupt:
            control.request_cancel(self._directory)
            raise
        if check and self.state != RunState.FINISHED:
            raise RunFailed(f"{self.id} is {self.state}: {self.message}")
        return self

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.state}>"


def run(
    analysis: PathLike = ".",
    *,
    engine: str | None = None,
    backend: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    parameters_file: PathLike | None = None,
    options: Mapping[str, Any] | None = None,
    workspace: PathLike | None = None,
    in_place: bool = False,
    name: str | None = None,
    container: str | None = None,
    until: str | None = None,
    allow_missing_outputs: bool = False,
    settings: Mapping[str, Any] | None = None,
    wait: bool = True,
    check: bool = True,
) -> Run:
    """Run an analysis, as `drawbar run` does; returns when it has ended, or at once without `wait`.

    `container` is none, docker or apptainer; `settings` are those of drawbar.toml by dotted name. An
    unfinished run of the `name` is resumed. A KeyboardInterrupt meanwhile cancels the run.

    Raises `SpecError` with every problem of the analysis and `UsageError` before there is a run, and,
    with `check`, `RunFailed` when the run does not finish.
    """
    settings = settings or {}
    plugins = load_plugins()
    found = load_analysis(
        Path(analysis),
        engines=plugins.engines,
        engine=engine,
        parameters=parameters,
        parameters_file=Path(parameters_file) if parameters_file else None,
        options=options,
    )
    chosen = load_settings(start=found.root, environ=os.environ, overrides=settings)
    if backend is not None:
        chosen.create_backend(backend, plugins)
    home = Home(chosen.home)
    asked: dict[str, Any] = {
        "backend": backend,
        "container": container,
        "until": until,
        "parameters": parameters,
        "parameters_file": Path(parameters_file).absolute() if parameters_file else None,
        "options": options,
        "workspace": Path(workspace).absolute() if workspace else None,
        "in_place": in_place,
        "allow_missing_outputs": allow_missing_outputs,
    }
    directory = unfinished(home, found, name, asked) if name else None
    if directory is None:
        directory = create_run(home, found, settings=chosen, name=name, **asked)
    return Run(directory)._go([], settings, wait=wait, check=check)


def runs() -> list[Run]:
    """Every run in DRAWBAR_HOME, by name and number."""
    return [Run(directory) for directory in _home().runs()]


def get(name: str) -> Run:
    """A run by its id, or the newest of a name; `UsageError` names the nearest when there is none."""
    return Run(_home().find(name))


def _home() -> Home:
    return Home(load_settings(start=Path.cwd(), environ=os.environ).home)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InfrastructureError(f"cannot read {path}: {error}") from error
