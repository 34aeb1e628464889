"""Runs the command of a job here and now, for tests of engines."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from drawbar.model import JobResult, JobSpec, Reason, judge


def run_command(spec: JobSpec, stdout: Path, stderr: Path, limit_s: float) -> JobResult:
    """What came of it; a command that takes longer than `limit_s` seconds is ended."""
    started = time.time()
    environment = {"PATH": os.environ.get("PATH", os.defpath), **spec.environment}
    try:
        with (
            Path(spec.stdin or os.devnull).open("rb") as stdin,
            stdout.open("wb") as out,
            stderr.open("wb") as err,
            subprocess.Popen(
                spec.argv,
                cwd=spec.directory,
                env=environment,
                stdin=stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            ) as process,
        ):
            try:
                code = process.wait(limit_s)
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                return JobResult(reason=Reason.TIMEOUT, message=f"ended after {limit_s} s")
    except OSError as error:
        return JobResult(exit_code=127, reason=Reason.EXIT_CODE, message=str(error))
    exit_code = code if code >= 0 else 128 - code
    return JobResult(
        exit_code=exit_code,
        reason=judge(spec, exit_code) if code >= 0 else Reason.KILLED,
        message="" if code >= 0 else f"ended by signal {-code}",
        started=started,
        finished=time.time(),
        stdout=str(stdout),
        stderr=str(stderr),
    )
