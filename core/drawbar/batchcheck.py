"""The second part of `drawbar backends check` for batch systems: a job that goes all the way."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drawbar.backend import Accepted, Attempt, InDoubt, JobStatus
from drawbar.errors import DrawbarError, Problem, Severity
from drawbar.lastlines import last_lines
from drawbar.model import Input, JobResult, JobSpec, WorkspaceNeed
from drawbar.settings import load_settings

if TYPE_CHECKING:
    from drawbar.batch import BatchBackend
    from drawbar.runtime import Runtime


class _Listener:
    def __init__(self) -> None:
        self.result: JobResult | None = None
        self.state = ""
        self.trouble_text = ""
        self.ended = threading.Event()

    def status(self, statuses: Sequence[JobStatus]) -> None:
        for status in statuses:
            self.state = " ".join(filter(None, (status.native_state, status.message)))
            if status.result is not None:
                self.result = status.result
                self.ended.set()

    def trouble(self, message: str) -> None:
        self.trouble_text = message or self.trouble_text


def round_trip(backend: BatchBackend) -> list[Problem]:
    """Run a job that copies a file in a directory that this machine and the nodes are to share.

    Leaves nothing behind, but a directory of its own when the job could not be stopped.
    """
    where = backend.options.check_directory
    try:
        place = Path(where) if where else load_settings(start=Path.cwd(), environ=os.environ).home
        while not where and not place.exists():
            place = place.parent
        directory = place / f".drawbar-check-{secrets.token_hex(8)}"
        directory.mkdir()
    except (OSError, DrawbarError) as error:
        return [Problem(message=f"{backend.name}: no file can be written for a check: {error}")]
    probe = type(backend)(backend.options)
    listener = _Listener()
    try:
        probe.start(listener)
        try:
            problems = _run(probe, listener, directory, backend.runtime)
        finally:
            probe.close()
    except DrawbarError as error:
        problems = [Problem(message=f"{backend.name}: {error}")]
    shutil.rmtree(directory, ignore_errors=True)
    return problems


def _run(probe: BatchBackend, listener: _Listener, directory: Path, runtime: Runtime | None) -> list[Problem]:
    name, word = probe.name, secrets.token_hex(8)
    asked, answers = directory / "asked", directory / "answers"
    asked.write_text(word)
    answers.mkdir()
    command = ["cp", str(asked), str(answers / "answered")]
    if runtime is not None:  # after the copy, so that what failed can be told
        script = 'program=$1; shift; "$@" && exec "$program" --version'
        command = ["/bin/sh", "-c", script, "sh", runtime.program, *command]
    spec = JobSpec(
        identity="check",
        name="check",
        step="check",
        argv=tuple(command),
        directory=str(answers),
        canonical=None,
        inputs=(Input(path=str(asked), name="asked"),),
        collection_root=str(answers),
        workspace=WorkspaceNeed.DECLARED,
    )
    tag = f"db-{secrets.token_hex(16)}"
    attempt = Attempt(
        tag=tag, run="check", number=1, record=f"{directory}/job", workspace=str(directory), spec=spec
    )
    (answer,) = probe.submit([attempt])
    if not isinstance(answer, Accepted | InDoubt):
        return [Problem(message=f"{name}: a job was refused: {answer.message}")]
    if not listener.ended.wait(probe.options.check_s):
        probe.cancel([attempt])
        listener.ended.wait(probe.options.check_s)
        where = listener.state or listener.trouble_text or "nothing was heard of it"
        return [
            Problem(
                message=f"{name}: a job did not end in {probe.options.check_s:g} s: {where}",
                hint="wait for longer with check_s, or look at the queue",
                severity=Severity.WARNING if listener.state else Severity.ERROR,
            )
        ]
    result = listener.result
    assert result is not None
    if not result.ok and runtime is not None and (answers / "answered").exists():
        said = " ".join(last_lines(Path(result.stderr or "")))
        program = f"{runtime.program!r}, which runs images,"
        return [
            Problem(
                message=f"{name}: {program} does not run on {result.host}: {said}",
                hint="install Apptainer on the nodes, load its module with `modules` of the backend, or say "
                "where it is with apptainer.program",
            )
        ]
    if not result.ok:
        began = result.started is not None
        return [
            Problem(
                message=f"{name}: a job {'failed' if began else 'did not begin'}: {result.message}",
                hint=None
                if began
                else f"do the nodes see {directory.parent}? Runs must be kept where they do",
            )
        ]
    if (answers / "answered").read_text() != word:
        return [Problem(message=f"{name}: what a job wrote in {directory.parent} is not what is read here")]
    return []
