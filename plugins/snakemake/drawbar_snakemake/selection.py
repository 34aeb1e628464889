"""Which of the jobs that are ready start now: Snakemake's scheduler plugin that costs the same for each job.

drawbar's own queue holds jobs until there is a place for them. So nearly always all jobs that are ready
are taken, and what is left to decide is their order, and what `--resources` of the user's bound. The
outcome is that of Snakemake's greedy scheduler, which compares every job with every other.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from snakemake_interface_scheduler_plugins.base import SchedulerBase
from snakemake_interface_scheduler_plugins.registry import SchedulerPluginRegistry

NAME = "drawbar"
_UNBOUNDED = sys.maxsize // 2
"""What has no bound starts at the largest number there is, and is counted down from there."""


class Scheduler(SchedulerBase):  # type: ignore[misc]
    """Takes jobs while the bounded resources last: by priority, then by what their end lets be deleted."""

    def select_jobs(
        self,
        selectable_jobs: Sequence[Any],
        remaining_jobs: Sequence[Any],
        available_resources: Mapping[str, Any],
        input_sizes: Mapping[Any, int | None],
    ) -> Sequence[Any]:
        """The jobs to start, in the order in which they were given."""
        left = {name: amount for name, amount in available_resources.items() if amount < _UNBOUNDED}
        if not left:
            return list(selectable_jobs)

        def worth(job: Any) -> tuple[float, int, int]:
            sizes = [(file, input_sizes.get(file) or 0) for file in job.input]
            temporary = sum(size for file, size in sizes if file.is_flagged("temp"))
            return job.priority, temporary, sum(size for _, size in sizes)

        taken = set()
        for job in sorted(selectable_jobs, key=worth, reverse=True):
            needs = {name: job.scheduler_resources.get(name, 0) for name in left}
            if all(needs[name] <= left[name] for name in left):
                left = {name: left[name] - needs[name] for name in left}
                taken.add(job)
        return [job for job in selectable_jobs if job in taken]


def register() -> None:
    """Make the scheduler known to Snakemake in this process, under `NAME`."""
    module = SimpleNamespace(Scheduler=Scheduler)
    SchedulerPluginRegistry().register_plugin(NAME, module)
