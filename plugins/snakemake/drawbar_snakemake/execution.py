"""Executes a workflow: opens it, lets Snakemake schedule its jobs, and says how it ended."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from drawbar.engine import JobClient, Source, StepFailed
from drawbar.model import Outputs

from drawbar_snakemake import conda, snapshot
from drawbar_snakemake.executor import ExecutorSettings, Failure
from drawbar_snakemake.log import RunLog
from drawbar_snakemake.session import Session, opened
from drawbar_snakemake.sources import Sources

if TYPE_CHECKING:
    from drawbar_snakemake.engine import SnakemakeOptions

_LOCKS = Path(".snakemake", "locks")
_OWNER = Path(".snakemake", "drawbar-run")
"""The run that works here last: what it locked is free when its engine starts again."""


def execute(source: Source, options: SnakemakeOptions, jobs: JobClient) -> Outputs:
    """See `Engine.execute`."""
    log = RunLog(jobs.log, jobs.progress)
    environment = dict(os.environ)
    with opened(source, options, log, workdir=jobs.workspace) as session:
        resumed = _clear_own_locks(jobs.run_id)
        sources = Sources(source, session.workflow)
        session.force(sources.edited())
        settings = ExecutorSettings(jobs, options, log, environment, sources)
        try:
            session.execute(settings)
        except Exception as error:
            if settings.failures or log.failed:
                raise _failure(settings.failures, log) from error
            conda.explain(error, session.workflow)
            raise
        if resumed:
            session.delete_temporary_files()
        sources.settle()
        _report(session, options)
        snapshot.end()
    jobs.log(
        "drawbar.snakemake", "INFO", f"Workflow {jobs.run_id} finished. Files available at {jobs.workspace}."
    )
    return Outputs()


def _clear_own_locks(run_id: str) -> bool:
    """Remove locks of an engine process of this run; there is only one, and that is this.

    Returns whether the run has worked here before.
    """
    locks = list(_LOCKS.iterdir()) if _LOCKS.is_dir() else []
    owner = _OWNER.read_text() if _OWNER.exists() else None
    if locks and owner != run_id:
        return False  # somebody else's: Snakemake says so
    for lock in locks:
        lock.unlink()
    _OWNER.parent.mkdir(exist_ok=True)
    _OWNER.write_text(run_id)
    return owner == run_id


def _failure(failures: Mapping[str, Failure], log: RunLog) -> StepFailed:
    """The first job that failed for good, and how many others did."""
    if not failures:
        rule, message = log.failed[0]
        words = "\n".join(dict.fromkeys(log.errors))
        return StepFailed(rule, f"rule {rule}: {message or words}")
    first, *others = failures.values()
    more = f"\n(failed too: {', '.join(dict.fromkeys(each.rule for each in others))})" if others else ""
    return StepFailed(first.rule, f"{first}{more}", first.result)


def _report(session: Session, options: SnakemakeOptions) -> None:
    if options.report is not None:
        session.report(Path(options.report))
