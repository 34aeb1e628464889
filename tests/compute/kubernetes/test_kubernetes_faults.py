"""What is so on any cluster, on the real one; and what its daemons, and drivers, may do at the worst time."""

from __future__ import annotations

import os
import signal

import pytest
from behaviour import Behaviour, ledger_of, running
from drawbar.model import Reason, Resources
from stages import POINTS

pytestmark = pytest.mark.kubernetes
PYTHON = "localhost/python:wf"


class TestBehaviour(Behaviour):
    pass


@pytest.fixture
def settings(cluster):
    """The text of a drawbar.toml for runs on the cluster."""
    return f"""
[backends.kubernetes]
grace_s = 1

[[backends.kubernetes.volumes]]
path = "{cluster.directory}"
host_path = "{cluster.directory}"

[[backends.kubernetes.pod_template.spec.containers]]
name = "job"
resources = {{requests = {{cpu = "50m"}}}}
"""


def kill_api_server(cluster):
    if "KUBE_GIVEN" in os.environ:
        pytest.skip("the API server of a cluster that was given is not ours to kill")
    os.kill(int(cluster.script("pid", "kube-apiserver")), signal.SIGKILL)


def test_an_api_server_killed_while_jobs_are_submitted(open_driver, cluster):
    driver = open_driver(patience_s=240)
    attempts = [driver.gated(driver.directory / "gate", code) for code in range(8)]
    driver.run(*attempts[:4])
    kill_api_server(cluster)
    driver.run(*attempts[4:])
    driver.wait_for(lambda: any(driver.watch.troubles), "trouble is told")
    cluster.script("start")
    driver.wait_for(lambda: len(ledger_of(driver)) == 8, "accepted jobs start")
    (driver.directory / "gate").touch()
    assert [driver.end(attempt).exit_code for attempt in attempts] == list(range(8))
    assert len(ledger_of(driver)) == 8


def test_an_api_server_killed_while_jobs_run(open_driver, cluster):
    driver = open_driver(patience_s=240)
    attempts = running(driver, 4, exit_code=3)
    kill_api_server(cluster)
    (driver.directory / "gate").touch()
    driver.wait_for(lambda: any(driver.watch.troubles), "trouble is told")
    cluster.script("start")
    assert [driver.end(attempt).exit_code for attempt in attempts] == [3] * 4
    assert len(ledger_of(driver)) == 4


def test_memory_of_the_job_itself(open_driver):
    """The kernel may take the command or the script; either is out-of-memory."""
    driver = open_driver()
    limits = Resources(memory_mib=32, memory_limit_mib=32)
    attempt = driver.shell('x=a; while :; do x="$x$x"; done', resources=limits)
    driver.run(attempt)
    assert driver.end(attempt).reason is Reason.OUT_OF_MEMORY


def test_what_the_kernel_counts_is_told(open_driver):
    driver = open_driver()
    attempt = driver.shell("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.cpu_s > 0
    assert result.peak_memory_mib > 0
    assert result.host == "wf-node"


def test_a_job_that_fits_nowhere_says_why_it_waits(open_driver):
    driver = open_driver()
    attempt = driver.shell("exit 0", resources=Resources(memory_mib=10_000_000))
    driver.run(attempt)
    driver.wait_for(
        lambda: any("Insufficient memory" in each.message for each in driver.watch.of(attempt)),
        "the scheduler's message is told",
    )
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


@pytest.mark.parametrize("stage", POINTS)
def test_a_driver_killed(cluster, settings, tmp_path, gated_run, stage):
    """The jobs' own ledger is the judge: none is lost, and none runs twice."""
    when, point = POINTS[stage]
    run = gated_run(tmp_path, settings, jobs=3, image=PYTHON)
    process = run.start("kubernetes", when=when, point=point)
    if "end" in stage or "deletion" in stage:
        run.wait_for("started")
        run.gate.touch()
    run.killed(process)
    run.resume()
    cluster.kubectl("delete", "jobs", "--all")  # what the killed driver left to the cluster's own clock


@pytest.mark.parametrize("ended", [False, True], ids=["while they run", "and they end meanwhile"])
def test_a_driver_killed_after_its_jobs_started(cluster, settings, tmp_path, gated_run, ended):
    run = gated_run(tmp_path, settings, jobs=3, image=PYTHON)
    process = run.start("kubernetes")
    run.wait_for("started")
    process.kill()
    run.killed(process)
    if ended:
        run.gate.touch()
        run.wait_for("started", "ended")
    run.resume()
    cluster.kubectl("delete", "jobs", "--all")
