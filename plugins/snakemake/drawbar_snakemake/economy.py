"""What Snakemake does in more time than it needs, done in less; for an engine process, which is its own."""

from __future__ import annotations

from typing import Any

from snakemake.jobs import Job


def apply() -> None:
    """Replace what takes quadratic time.

    Before a job that gathers n files runs, Snakemake asks for each of them whether one of n others pipes
    it: 5000 files take it as long as all their jobs. The answer for all of them is looked up once.
    """
    known: tuple[Any, frozenset[Any]] = (None, frozenset())

    def is_pipe_or_service_input(job: Any, path: Any) -> bool:
        nonlocal known
        makers = job.dag.dependencies[job]
        if known[0] is not makers:
            piped = (path for maker, files in makers.items() for path in files & maker.pipe_or_service_output)
            known = makers, frozenset(piped)
        return path in known[1]

    Job.is_pipe_or_service_input = is_pipe_or_service_input
