"""What goes wrong with a real Slurm, and what drawbar says and does then."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from drawbar.backend import Accepted, InDoubt
from drawbar.model import JobState, Reason, Resources

pytestmark = pytest.mark.slurm


@contextmanager
def stopped(pid):
    """The process does not answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def open_process(pid):
    """A file descriptor that becomes readable when the process has ended."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def away(slurm, daemon, how):
    """The daemon is stopped, or killed and started again at the end."""
    if how == "stopped":
        with stopped(slurm.pid(daemon)):
            yield
        return
    with open_process(slurm.pid(daemon)) as process:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], 30)
    try:
        yield
    finally:
        slurm.script("start")


def ledger_job(driver, number=1, **fields):
    return driver.shell('echo "$2" >> "$1"', str(driver.directory / "ledger"), str(number), **fields)


def ledger(driver):
    path = driver.directory / "ledger"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def started(driver, **fields):
    """A job that runs until its gate is made."""
    gate = driver.directory / "gate"
    attempt = driver.gated(gate, **fields)
    (answer,) = driver.run(attempt)
    driver.wait_for(gate.with_name("gate.ledger").exists, "an accepted job starts")
    return attempt, answer.native_id, gate


def told(driver, attempt, condition):
    driver.wait_for(
        lambda: any(condition(status) for status in driver.watch.of(attempt)), "the state is told"
    )


def test_the_controller_stops_answering_during_a_submission(slurm, open_driver):
    driver = open_driver(call_timeout_s=3.0)
    attempts = [ledger_job(driver, number) for number in range(20)]
    driver.backend.largest_batch()
    with stopped(slurm.pid("slurmctld")):
        answers = driver.submit(*attempts)
        assert all(isinstance(answer, InDoubt) for answer in answers)
    results = [driver.end(attempt) for attempt in attempts]
    ran = ledger(driver)
    # Whether the request arrived is Slurm's to say; a job ran once, or it is lost and can never run.
    assert all(result.ok or result.reason is Reason.LOST for result in results)
    assert ran == [number for number, result in enumerate(results) if result.ok]


def test_the_controller_stops_answering_while_jobs_run(slurm, open_driver):
    driver = open_driver(call_timeout_s=3.0)
    attempt, _, gate = started(driver)
    with stopped(slurm.pid("slurmctld")):
        driver.wait_for(lambda: driver.watch.troubles, "it is told that Slurm does not answer")
        gate.touch()
        assert driver.end(attempt).ok  # by its record
        late = ledger_job(driver)
        (answer,) = driver.submit(late)
        assert isinstance(answer, InDoubt | Accepted)
    assert driver.end(late).reason in (None, Reason.LOST)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_controller_is_away_for_30_seconds(slurm, tmp_path, gated_run, how):
    """A run whose jobs are running, and one that submits meanwhile: both finish, each job runs once."""
    runs = []
    for name in ("running", "submitting"):
        (tmp_path / name).mkdir()
        runs.append(
            gated_run(tmp_path / name, "[backends.slurm]\ncall_timeout_s = 3\npoll_s = 2\nsettle_s = 5\n")
        )
    first = runs[0].start("slurm")
    runs[0].wait_for("started")
    with away(slurm, "slurmctld", how):
        second = runs[1].start("slurm")
        runs[0].gate.touch()
        runs[0].wait_for("started", "ended")
        time.sleep(30)
    runs[0].finish(first)
    runs[1].finish(second)
    slurm.script("start")  # the nodes that a controller which lost its memory has drained are used again


def test_a_second_copy_of_a_job_does_nothing(slurm, open_driver):
    driver = open_driver()
    attempt, _, gate = started(driver)
    slurm.run(
        "sbatch",
        "--wait",
        "--output=/dev/null",
        f"--job-name={attempt.tag}",
        f"{attempt.record}/batch/launcher",
    )
    assert (driver.directory / "gate.ledger").read_text() == "started\n"
    asked = slurm.run("squeue", "--noheader", "--states=all", f"--name={attempt.tag}", "-o", "%T")
    assert sorted(asked.split()) == ["COMPLETED", "RUNNING"]
    driver.call(driver.backend._jobs.ask)
    gate.touch()
    assert driver.end(attempt).ok


def test_a_whole_array_is_cancelled_in_one_call(slurm, open_driver, monkeypatch):
    driver = open_driver(throttle=3)
    backend, calls = driver.backend, []
    original = backend.commands

    class Counting:
        def run(self, *argv, **more):
            calls.append(argv[0])
            return original.run(*argv, **more)

    monkeypatch.setattr(backend, "commands", Counting())
    attempts = [driver.gated(driver.directory / f"gate{number}") for number in range(40)]
    driver.run(*attempts)
    driver.wait_for(lambda: len(list(driver.directory.glob("*.ledger"))) == 3, "the first three start")
    driver.cancel(*attempts)
    assert {driver.end(attempt).reason for attempt in attempts} == {Reason.CANCELLED}
    assert len(list(driver.directory.glob("*.ledger"))) == 3
    assert calls.count("scancel") == 1
    assert calls.count("sbatch") == 1


def test_tasks_of_a_job_over_several_nodes(open_driver):
    """For MPI: the command runs once, on the first node, and starts the tasks itself."""
    driver = open_driver()
    attempt = driver.shell(
        'echo once >> "$1"; srun sh -c "echo \\$SLURM_PROCID \\$SLURM_NODEID" | sort',
        str(driver.directory / "ledger"),
        hints={"slurm": {"slurm_nodes": 2, "slurm_ntasks": 4, "slurm_ntasks_per_node": 2}},
    )
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.ok
    assert Path(result.stdout).read_text().split("\n")[:-1] == ["0 0", "1 0", "2 1", "3 1"]
    assert (driver.directory / "ledger").read_text() == "once\n"


def test_scancel_by_somebody_else(slurm, open_driver):
    driver = open_driver()
    attempt, native_id, gate = started(driver)
    slurm.run("scancel", native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.state is JobState.CANCELLED
    assert "cancelled" in result.message
    assert result.native_id == native_id
    assert result.host


def test_a_pending_job_is_cancelled_by_somebody_else(slurm, open_driver):
    driver = open_driver()
    attempt = ledger_job(driver, hints={"slurm": {"constraint": "fast&avx2"}}, resources=Resources(cpus=999))
    (answer,) = driver.run(attempt)
    told(driver, attempt, lambda status: "PartitionConfig" in status.message)
    slurm.run("scancel", answer.native_id)
    assert driver.end(attempt).state is JobState.CANCELLED


def test_out_of_memory_by_the_kernels_word(open_driver):
    driver = open_driver()
    attempt = driver.shell("head -c 200M /dev/zero | tail > /dev/null", resources=Resources(memory_mib=50))
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.OUT_OF_MEMORY
    assert 40 < result.peak_memory_mib < 60


def test_out_of_memory_of_the_script_itself(slurm, open_driver):
    """Where the job can leave no record, Slurm's word counts."""
    driver = open_driver(prolog=["x=$(head -c 100M /dev/zero | tr '\\0' x)"])
    attempt = driver.shell("exit 0", resources=Resources(memory_mib=20))
    driver.run(attempt)
    assert driver.end(attempt).reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize("how", ["requeue", "requeuehold"])
def test_a_requeued_job_is_an_attempt_that_was_evicted(slurm, open_driver, how):
    driver = open_driver(arguments=["--requeue"])  # a site may insist on it
    attempt, native_id, gate = started(driver)
    slurm.run("scontrol", how, native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.EVICTED
    assert (driver.directory / "gate.ledger").read_text() == "started\n"


def test_a_preempted_job_was_evicted(slurm, open_driver):
    driver = open_driver(partition="scavenge")
    attempt, _, gate = started(driver, hints={"slurm": {"nodes": 4, "exclusive": True}})
    other = open_driver(partition="debug")
    urgent = other.shell("exit 0", hints={"slurm": {"exclusive": True, "nodes": 4}})
    other.run(urgent)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.EVICTED
    assert other.end(urgent).ok


def test_a_job_that_is_held_says_so(slurm, open_driver):
    driver = open_driver(arguments=["--begin=now+1hour"])
    attempt = ledger_job(driver)
    (answer,) = driver.run(attempt)
    told(driver, attempt, lambda status: "BeginTime" in status.message)
    slurm.run("scontrol", "hold", answer.native_id)
    told(driver, attempt, lambda status: "JobHeld" in status.message)
    slurm.run("scontrol", "release", answer.native_id)
    slurm.run("scontrol", "update", f"jobid={answer.native_id}", "StartTime=now")
    assert driver.end(attempt).ok


def test_a_suspended_job_is_alive(slurm, open_driver):
    driver = open_driver()
    attempt, native_id, gate = started(driver)
    slurm.run("scontrol", "suspend", native_id)
    told(driver, attempt, lambda status: status.native_state == "SUSPENDED")
    slurm.run("scontrol", "resume", native_id)
    gate.touch()
    assert driver.end(attempt).ok


def test_a_node_is_drained_and_dies(slurm, open_driver):
    driver = open_driver(partition="debug", arguments=["--nodelist=n4"])
    attempt, native_id, gate = started(driver)
    slurm.run("scontrol", "update", "nodename=n4", "state=drain", "reason=test")
    assert driver.find(attempt)[attempt.tag].state is JobState.RUNNING
    group = f"/sys/fs/cgroup/freezer/slurm_n4/uid_*/job_{native_id}"
    # First the slurmstepd, which would tell slurmctld of the end of the others.
    processes = slurm.run("sh", "-c", f"cat {group}/cgroup.procs {group}/step_*/cgroup.procs")
    os.kill(slurm.pid("slurmd-n4"), signal.SIGKILL)
    try:
        for pid in processes.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        slurm.run("scontrol", "update", "nodename=n4", "state=down", "reason=test")
        result = driver.end(attempt)
    finally:
        gate.touch()
        slurm.script("start")
    assert result.reason is Reason.NODE_LOST
    assert result.host == "n4"


def test_a_node_that_cannot_launch_jobs(slurm, open_driver):
    """Its prolog fails; Slurm drains it, and cancels the job, which it may not requeue."""
    driver = open_driver(arguments=["--nodelist=n4"])
    slurm.script("node-break", "4")
    try:
        attempt = ledger_job(driver)
        driver.run(attempt)
        result = driver.end(attempt)
    finally:
        slurm.script("node-mend", "4")
    assert (result.reason, result.host) == (Reason.NODE_LOST, "n4")
    assert ledger(driver) == []


def test_a_workspace_that_the_nodes_do_not_see(slurm, open_driver):
    with tempfile.TemporaryDirectory(dir=slurm.private) as directory:
        driver = open_driver(Path(directory, "workspace"))
        attempt = ledger_job(driver)
        driver.run(attempt)
        result = driver.end(attempt)
        driver.clean_up()
    assert result.reason is Reason.LOST
    assert f"{attempt.record} seen there?" in result.message


def test_the_time_limit_of_slurm_itself(slurm, open_driver):
    """When the script cannot keep the wall time. Slurm counts in minutes, unless it is told otherwise."""
    driver = open_driver(time="1")
    attempt, native_id, gate = started(driver)
    slurm.run("scontrol", "update", f"jobid={native_id}", "EndTime=now")
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.TIMEOUT
    assert "time limit" in result.message


def test_without_accounting_and_memory_of_ended_jobs(slurm, open_driver, monkeypatch):
    """squeue forgets at once and sacct knows nothing: what has no record is lost, and not more."""
    driver = open_driver()
    backend = driver.backend
    monkeypatch.setattr(backend, "history", lambda names: ())
    queue = backend.queue
    monkeypatch.setattr(backend, "queue", lambda: [each for each in queue() if not each.state.terminal])
    attempt, native_id, gate = started(driver)
    ok = ledger_job(driver)
    driver.run(ok)
    assert driver.end(ok).ok
    pids = slurm.run(
        "sh", "-c", f"cat /sys/fs/cgroup/freezer/slurm_n*/uid_*/job_{native_id}/step_*/cgroup.procs"
    )
    for pid in pids.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    assert driver.end(attempt).reason is Reason.LOST
    gate.touch()


def test_what_only_the_accounting_remembers(slurm, open_driver, monkeypatch):
    driver = open_driver(settle_s=60.0)
    backend = driver.backend
    queue = backend.queue
    monkeypatch.setattr(backend, "queue", lambda: [each for each in queue() if not each.state.terminal])
    attempt, native_id, gate = started(driver)
    slurm.run("scancel", "--signal=KILL", "--full", native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is not None
    assert "any more" not in result.message


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_accounting_is_away(slurm, open_driver, monkeypatch, how):
    driver = open_driver(call_timeout_s=3.0)
    backend = driver.backend
    queue = backend.queue
    monkeypatch.setattr(backend, "queue", lambda: [each for each in queue() if not each.state.terminal])
    attempt, native_id, gate = started(driver)
    asked = threading.Event()
    history = backend.history

    def look_back(names):
        asked.set()
        return history(names)

    monkeypatch.setattr(backend, "history", look_back)
    with away(slurm, "slurmdbd", how):
        slurm.run("scancel", "--signal=KILL", "--full", native_id)
        assert asked.wait(60)
        ok = ledger_job(driver)
        driver.run(ok)
        assert driver.end(ok).ok
    result = driver.end(attempt)
    gate.touch()
    assert result.reason not in (None, Reason.LOST)
