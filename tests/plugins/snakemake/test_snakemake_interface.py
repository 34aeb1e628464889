"""Snakemake's own test of executors, and what is used of Snakemake beside its documented interface."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawbar.engine import Source
from drawbar.testing.child import forked
from drawbar.testing.memory import MemoryJobs
from drawbar_snakemake.engine import SnakemakeEngine, SnakemakeOptions

SnakemakeEngine.preload()

from drawbar_snakemake.executor import NAME, Executor, ExecutorSettings, Pump, register  # noqa: E402
from drawbar_snakemake.log import RunLog  # noqa: E402
from drawbar_snakemake.sources import Sources  # noqa: E402
from snakemake.common.tests import TestWorkflowsLocalStorageBase  # noqa: E402
from snakemake.scheduling.job_scheduler import JobScheduler  # noqa: E402
from snakemake.shell import shell  # noqa: E402

pytestmark = pytest.mark.slow


class TestSnakemakesOwn(TestWorkflowsLocalStorageBase):
    __test__ = True

    def run_workflow(self, test_name, tmp_path, deployment_method=frozenset()):
        workspace = Path(tmp_path, test_name)

        def run(_):
            register()
            log = RunLog(lambda *_: None)
            source = Source(root=workspace, document=workspace / "Snakefile")
            sources = Sources(source, SimpleNamespace(included=[], rules=[]))
            jobs = MemoryJobs(workspace)
            self._settings = ExecutorSettings(jobs, SnakemakeOptions(), log, dict(os.environ), sources)
            super(TestSnakemakesOwn, self).run_workflow(test_name, tmp_path, deployment_method)
            jobs.finish()
            return jobs.executed

        assert forked(run, 120.0)

    def get_executor(self):
        return NAME

    def get_executor_settings(self):
        return getattr(self, "_settings", None)

    def _common_settings(self):
        register()
        return super()._common_settings()


def test_what_is_used_of_snakemakes_inside_is_there():
    """With a new version of Snakemake, these are what to look at first."""
    for name in ("schedule", "_finish_jobs", "_error_jobs"):
        assert hasattr(JobScheduler, name), name
    assert "_open_jobs" in JobScheduler.__init__.__code__.co_names
    assert "_user_kill" in JobScheduler.__init__.__code__.co_names
    assert hasattr(shell, "_get_process_prefix")
    assert hasattr(shell, "_process_suffix")
    assert callable(Pump.acquire)
    assert callable(Executor.run_jobs)
