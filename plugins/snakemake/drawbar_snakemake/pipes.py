"""Jobs that run together, joined by `pipe()` or `service()`, come to an end whatever one of them does.

Opening a named pipe waits until somebody opens its other end, and Snakemake waits for a whole group. So
it waits for ever when a job has ended before it opened its pipe, unless the other had started by then
and could be killed; likewise for a service that starts only after its last consumer has ended, and for
a consumer of a service that is there no more.

Needs nothing but Snakemake, since it runs in nested ones too: `python FILE -m snakemake ...`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from snakemake.exceptions import WorkflowError
from snakemake.executors.local import Executor
from snakemake.io import is_flagged
from snakemake.script import ScriptBase
from snakemake.shell import shell

_AGAIN_S = 0.5
"""A job may come to its pipe, or to its command, any time after the other has ended."""
_STOPPING_S = 5.0
"""A consumer may stop its service as the last thing that it does."""
_execute = ScriptBase._execute_cmd


def apply() -> None:
    """Run such groups in this process with `run_group_job`."""
    Executor.run_group_job = run_group_job
    ScriptBase._execute_cmd = _execute_stoppable


def _execute_stoppable(script: Any, command: str, **options: Any) -> Any:
    """Start the interpreter of a script as a command of its job, which makes it one that can be killed."""
    return _execute(script, command, **options, jobid=script.jobid)


def run_group_job(executor: Any, group: Any) -> None:
    """Run the jobs of a group at once. Raises what the first that failed raises, when all have ended."""
    jobs = list(group)
    pipes = _Pipes(jobs)
    running: dict[Future[None], Any] = {}
    try:
        for job in jobs:
            running[executor.run_single_job(job)] = job
        waiting = set(running)
        while any(not running[future].is_service for future in waiting):
            ended, waiting = wait(waiting, _AGAIN_S, FIRST_COMPLETED)
            for future in sorted(ended, key=lambda future: running[future].is_service):
                if running[future].is_service:
                    _check_unused(future, running)
                else:
                    future.result()
            pipes.release(job for future, job in running.items() if future.done())
    except BaseException:
        for left in _ended(running, shell.kill):
            pipes.release(left)
        raise
    for _ in _ended(running, shell.terminate):
        pass


def _check_unused(service: Future[None], running: dict[Future[None], Any]) -> None:
    """Raise an error when jobs that a service is an input of go on after it has ended."""
    job = running[service]
    _, left = wait([each for each in running if set(running[each].input) & set(job.output)], _STOPPING_S)
    if left:
        error = service.exception()
        raise WorkflowError(
            f"the service has ended while {', '.join(sorted({running[each].rule.name for each in left}))} "
            "still used it; it has to run until Snakemake terminates it",
            *([error] if error else []),
            rule=job.rule,
        )


def _ended(running: dict[Future[None], Any], stop: Callable[[int], None]) -> Iterable[Iterable[Any]]:
    """Stop the jobs, also those that have yet to start, until none is left; gives all of them each time."""
    left = set(running)
    while left:
        for future in left:
            stop(running[future].jobid)
        yield running.values()
        _, left = wait(left, _AGAIN_S)


class _Pipes:
    """The named pipes between the jobs of a group."""

    def __init__(self, jobs: list[Any]) -> None:
        files = {file for job in jobs for file in job.output if is_flagged(file, "pipe")}
        self._paths = {str(file): os.path.abspath(file) for file in files}  # noqa: PTH100 (links are kept)

    def release(self, ended: Iterable[Any]) -> None:
        """Let nobody wait for these jobs: readers find their pipe at its end, and writers find it broken."""
        for job in ended:
            self._open(job.output, os.O_WRONLY)
            self._open(job.input, os.O_RDONLY)

    def _open(self, files: Iterable[Any], side: int) -> None:
        for file in files:
            if str(file) in self._paths:
                with contextlib.suppress(OSError):  # nobody waits there, or the pipe is gone
                    os.close(os.open(self._paths[str(file)], side | os.O_NONBLOCK))


if __name__ == "__main__":
    from snakemake.cli import main

    apply()
    sys.path[0] = os.getcwd()  # noqa: PTH109 (as with `python -m`)
    sys.argv[:] = ["snakemake", *sys.argv[3:]]
    main()
