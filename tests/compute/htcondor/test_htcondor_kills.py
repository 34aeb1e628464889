"""Drivers killed with SIGKILL at every stage of a submission: no job is lost, and none runs twice."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.htcondor

SETTINGS = """
[backends.htcondor]
poll_s = 2
settle_s = 3
calls_per_minute = 600
"""
BACKEND = "drawbar_htcondor.backend:HTCondorBackend"
POINTS = {
    "before the intent": ("before", "drawbar.dispatcher:Dispatcher.submit"),
    "after the intent": ("before", f"{BACKEND}.submit"),
    "while it is written down": ("before", "drawbar.batchscript:launcher"),
    "before it is handed over": ("before", f"{BACKEND}.hand_over"),
    "while HTCondor takes it": ("after", "drawbar_htcondor.schedd:Schedd._send"),
    "after it is handed over": ("after", f"{BACKEND}.hand_over"),
    "before the answer is stored": ("after", f"{BACKEND}.submit"),
    "after the end": ("before", "drawbar.dispatcher:Dispatcher.accept"),
}


@pytest.mark.parametrize("stage", POINTS)
def test_a_driver_killed(pool, shared, gated_run, stage):
    when, point = POINTS[stage]
    run = gated_run(shared, SETTINGS, prefix=pool.as_user)
    if stage == "after the end":
        run.gate.touch()
    run.killed(run.start("htcondor", when=when, point=point))
    run.resume()


@pytest.mark.parametrize("ended", [False, True], ids=["while they run", "and they end meanwhile"])
def test_a_driver_killed_after_its_jobs_started(pool, shared, gated_run, ended):
    run = gated_run(shared, SETTINGS, prefix=pool.as_user)
    process = run.start("htcondor")
    run.wait_for("started")
    process.kill()
    run.killed(process)
    if ended:
        run.gate.touch()
        run.wait_for("started", "ended")
    found = run.resume()
    assert len({job["native_id"].partition(".")[0] for job in found["jobs"]}) == 1
