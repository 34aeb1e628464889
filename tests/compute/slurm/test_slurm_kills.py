"""Drivers killed with SIGKILL at every stage of a submission: no job is lost, and none runs twice."""

from __future__ import annotations

import shutil
import time

import pytest

pytestmark = pytest.mark.slurm

SETTINGS = """
[backends.slurm]
poll_s = 2
settle_s = 3
calls_per_minute = 600
"""
BACKEND = "drawbar_slurm.backend:SlurmBackend"
POINTS = {
    "before the intent": ("before", "drawbar.dispatcher:Dispatcher.submit"),
    "after the intent": ("before", f"{BACKEND}.submit"),
    "while it is written down": ("before", "drawbar.batchscript:launcher"),
    "before sbatch": ("before", f"{BACKEND}.hand_over"),
    "after sbatch": ("after", f"{BACKEND}.hand_over"),
    "before the answer is stored": ("after", f"{BACKEND}.submit"),
    "after the end": ("before", "drawbar.dispatcher:Dispatcher.accept"),
}


@pytest.mark.parametrize("stage", POINTS)
def test_a_driver_killed(slurm, tmp_path, gated_run, stage):
    when, point = POINTS[stage]
    run = gated_run(tmp_path, SETTINGS)
    if stage == "after the end":
        run.gate.touch()
    run.killed(run.start("slurm", when=when, point=point))
    if "after sbatch" in stage or "answer" in stage:
        run.wait_for("started")
    run.resume()


def test_a_driver_killed_during_sbatch(slurm, tmp_path, gated_run):
    """The command outlives the driver, and its batch arrives when the next driver looks already."""
    bin_directory = tmp_path / "bin"
    bin_directory.mkdir()
    sbatch = bin_directory / "sbatch"
    real = shutil.which("sbatch")
    sbatch.write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/asked ] && exec {real} "$@"\n'
        f': > {tmp_path}/asked; kill -KILL $PPID; sleep 2; exec {real} "$@"\n'
    )
    sbatch.chmod(0o755)
    run = gated_run(tmp_path, f'{SETTINGS}bin_directory = "{bin_directory}"\n')
    run.killed(run.start("slurm"))
    run.resume()


@pytest.mark.parametrize("ended", [False, True], ids=["while they run", "and they end meanwhile"])
def test_a_driver_killed_after_its_jobs_started(slurm, tmp_path, gated_run, ended):
    run = gated_run(tmp_path, SETTINGS)
    process = run.start("slurm")
    run.wait_for("started")
    give_up = time.monotonic() + 120
    while sum(bool(job["native_id"]) for job in run.status()["jobs"]) < run.jobs:
        assert time.monotonic() < give_up  # jobs may begin before the answer of sbatch is written down
    process.kill()
    run.killed(process)
    if ended:
        run.gate.touch()
        run.wait_for("started", "ended")
    found = run.resume()
    assert all("_" in job["native_id"] for job in found["jobs"])
