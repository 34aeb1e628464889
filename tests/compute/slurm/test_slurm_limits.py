"""Jobs that ask for what this Slurm cannot or will not give."""

from __future__ import annotations

import time

import pytest
from drawbar.backend import Refused
from drawbar.model import Reason

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize(
    ("hint", "asked", "word"),
    [
        ({"slurm_partition": "nowhere"}, "--partition=nowhere", "partition"),
        ({"slurm_qos": "best"}, "--qos=best", "qos"),
        ({"slurm_qos": "short", "slurm_time": "30"}, "--time=", "QOSMaxWallDurationPerJobLimit"),
        ({"slurm_gres": "gpu:9"}, "--gres=gpu:9", "not available"),
    ],
)
def test_what_slurm_refuses_is_told_with_what_was_asked_for(open_driver, hint, asked, word):
    driver = open_driver(time="30")
    (answer,) = driver.submit(driver.shell("exit 0", hints={"slurm": hint}))
    assert isinstance(answer, Refused)
    assert asked in answer.message
    assert word in answer.message


def test_a_time_above_the_partitions_ends_the_job_and_not_in_a_queue(open_driver):
    """Slurm takes such a job, and keeps it pending for ever."""
    driver = open_driver(partition="debug", time="120")
    attempt = driver.shell("exit 0")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.UNSCHEDULABLE
    assert "PartitionTimeLimit" in result.message


def test_a_job_that_a_qos_keeps_pending_says_so_in_the_status(drawbar, tmp_path):
    analysis = tmp_path / "analysis" / "reana.yaml"
    analysis.write_text(analysis.read_text().replace("slurm_partition: debug", "slurm_qos: closed"))
    run = drawbar("run", "--no-container", "--detach", "--json", "--name", "pending")
    assert run.returncode == 0, run.stderr
    give_up = time.monotonic() + 120
    while "QOSGrpJobsLimit" not in drawbar("status", "pending", "--json").stdout:
        assert time.monotonic() < give_up
    assert "QOSGrpJobsLimit" in drawbar("status", "pending").stdout
    assert drawbar("cancel", "pending").returncode == 0
    assert drawbar("wait", "pending").returncode == 130


def test_a_partition_that_is_not_there_fails_the_run_with_its_step(drawbar, tmp_path):
    analysis = tmp_path / "analysis" / "reana.yaml"
    analysis.write_text(analysis.read_text().replace("slurm_partition: debug", "slurm_partition: nowhere"))
    done = drawbar("run", "--no-container")
    assert done.returncode == 1
    assert "first" in done.stderr + done.stdout
    assert "--partition=nowhere" in done.stderr + done.stdout
