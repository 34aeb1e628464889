"""Workflows executed in a child process, over jobs that are run and remembered in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from drawbar.testing.child import forked
from drawbar.testing.memory import MemoryJobs
from drawbar.testing.sample import Outcome, Sample, drive
from drawbar_snakemake.engine import SnakemakeEngine

Execute = Callable[..., Outcome]


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """Execute a Snakefile in `tmp_path / "workspace"`; with `after`, as a restart of an earlier outcome.

    `arrange` is called in the child process, with the client and what ends the process at once.
    """
    SnakemakeEngine.preload()

    def execute(
        snakefile: str,
        *,
        files: dict[str, str] | None = None,
        after: Outcome | None = None,
        kill_at: int | None = None,
        arguments: str = "",
        parameters: dict[str, Any] | None = None,
        declared: tuple[str, ...] = (),
        arrange: Callable[[MemoryJobs, Callable[[Outcome], NoReturn]], None] | None = None,
    ) -> Outcome:
        options = {"arguments": f"--latency-wait 0 {arguments}"}
        sample = Sample(
            files={"Snakefile": snakefile, **(files or {})},
            file="Snakefile",
            options=options,
            parameters=parameters or {},
            declared=declared,
        )
        workspace = tmp_path / "workspace"
        source = sample.write(workspace)
        jobs = after.jobs.restarted() if after else MemoryJobs(workspace)

        def work(leave: Callable[[Outcome], NoReturn]) -> Outcome:
            if arrange is not None:
                arrange(jobs, leave)
            return drive(SnakemakeEngine(), source, jobs, kill_at, leave)

        return forked(work, 120.0)

    return execute


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Where `execute` works."""
    return tmp_path / "workspace"
