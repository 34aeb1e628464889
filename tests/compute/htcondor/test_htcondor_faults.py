"""What goes wrong with a real HTCondor, and what drawbar says and does then."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from drawbar.backend import Accepted, InDoubt
from drawbar.model import JobState, Reason, Resources

pytestmark = pytest.mark.htcondor


STOPPED_S = 30


@contextmanager
def stopped(pid, seconds):
    """For so long the process does not answer; a guard lets it go on even if this one cannot."""
    guard = subprocess.Popen(["sh", "-c", 'sleep 60; kill -CONT "$0"', str(pid)], start_new_session=True)
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
        time.sleep(max(0, began + seconds - time.monotonic()))
    finally:
        os.kill(pid, signal.SIGCONT)
        os.killpg(guard.pid, signal.SIGKILL)
        guard.wait()


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


def test_the_schedd_stops_answering_while_jobs_run_and_others_are_submitted(pool, open_driver):
    driver = open_driver(call_timeout_s=3.0)
    running, _, gate = started(driver)
    attempts = [ledger_job(driver, number) for number in range(5)]
    with stopped(pool.pid("condor_schedd"), STOPPED_S):
        answers = driver.submit(*attempts)
        assert all(isinstance(answer, InDoubt | Accepted) for answer in answers)
        gate.touch()
        assert driver.end(running).ok  # by its record
    results = [driver.end(attempt) for attempt in attempts]
    assert all(result.ok or result.reason is Reason.LOST for result in results)
    assert ledger(driver) == [number for number, result in enumerate(results) if result.ok]
    assert driver.watch.troubles
    late = ledger_job(driver, 99)
    driver.submit(late)
    assert driver.end(late).ok


def test_the_schedd_is_killed_while_jobs_run(pool, open_driver):
    """The master starts it again, and the jobs go on."""
    driver = open_driver()
    attempt, _, gate = started(driver)
    os.kill(pool.pid("condor_schedd"), signal.SIGKILL)
    gate.touch()
    assert driver.end(attempt).ok
    late = ledger_job(driver)
    driver.submit(late)
    assert driver.end(late).ok
    assert ledger(driver) == [1]


def test_a_machine_that_goes_away(pool, open_driver):
    driver = open_driver(lease_s=20)
    attempt, _, gate = started(driver)
    pool.kill("condor_startd", "condor_starter", "job")
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.NODE_LOST
    assert "disconnected too long" in result.message
    told(driver, attempt, lambda status: "no contact" in status.message)


def test_a_machine_that_is_drained(pool, open_driver):
    driver = open_driver()
    attempt, _, gate = started(driver)
    slot = pool.run("condor_status", "-af", "Name", "-constraint", 'SlotType == "Partitionable"').strip()
    pool.run("condor_drain", "-fast", "-resume-on-completion", "-reason", "disks", slot, root=True)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.EVICTED
    late = ledger_job(driver)
    driver.submit(late)
    assert driver.end(late).ok


def test_condor_rm_by_somebody_else(pool, open_driver):
    driver = open_driver()
    attempt, native_id, gate = started(driver)
    pool.run("condor_rm", native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.state is JobState.CANCELLED
    assert "condor_rm" in result.message
    assert result.native_id == native_id


def test_a_held_job_fails_at_once_with_its_reason(pool, open_driver):
    driver = open_driver()
    attempt, native_id, gate = started(driver)
    pool.run("condor_hold", "-reason", "the disk is being mended", native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.HELD
    assert "the disk is being mended" in result.message
    assert native_id not in pool.run("condor_q", "-af:j", "JobStatus")


def test_a_held_job_may_be_waited_for(pool, open_driver):
    driver = open_driver(hold="wait", requirements="HasWfa && Held =!= 1")
    attempt = ledger_job(driver, hints={"htcondor": {"requirements": "NoSuchThing"}})
    (answer,) = driver.run(attempt)
    pool.run("condor_hold", "-reason", "not yet", answer.native_id)
    told(driver, attempt, lambda status: status.native_state == "held" and "not yet" in status.message)
    pool.run("condor_qedit", answer.native_id, "Requirements", "true")
    pool.run("condor_release", answer.native_id)
    assert driver.end(attempt).ok


def test_a_job_that_htcondor_wants_to_start_again_was_evicted(pool, open_driver):
    driver = open_driver()
    attempt, native_id, gate = started(driver)
    pool.run("condor_vacate_job", "-fast", native_id)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.EVICTED
    assert (driver.directory / "gate.ledger").read_text() == "started\n"


def test_a_held_job_that_had_started_may_be_repeated_after_a_time(open_driver):
    policy = {"PeriodicHold": "JobStatus == 2 && time() - JobCurrentStartDate > 2"}
    driver = open_driver(hold="release", hold_release_s=1, attributes=policy)
    attempt, _, gate = started(driver)
    result = driver.end(attempt)
    gate.touch()
    assert result.reason is Reason.EVICTED
    assert "PeriodicHold" in result.message


def test_a_job_above_its_memory(open_driver):
    """The machine's policy holds it, with a word that is proof enough."""
    driver = open_driver()
    script = "import time; taken = bytearray(300 << 20); time.sleep(100)"
    attempt = driver.attempt("python3", "-c", script, resources=Resources(memory_mib=32))
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.OUT_OF_MEMORY
    assert "memory usage exceeded" in result.message


def test_htcondor_ends_a_job_whose_script_cannot(open_driver, monkeypatch):
    monkeypatch.setattr("drawbar_htcondor.options.SCRIPT_S", 1)
    driver = open_driver()
    attempt = driver.shell("kill -STOP $PPID; sleep 100", resources=Resources(walltime_s=1))
    driver.run(attempt)
    result = driver.end(attempt)
    assert result.reason is Reason.TIMEOUT
    assert result.exit_code is None


def test_what_is_submitted_is_what_htcondor_has(pool, open_driver):
    driver = open_driver(
        accounting_group="group_a.b", allow_attributes=["ProjectName"], attributes={"WantHelp": "1 + 1"}
    )
    hints = {"requirements": 'HasWfa && Arch == "X86_64"', "priority": 7, "attributes": {"ProjectName": "x"}}
    wanted = Resources(gpus=1, memory_mib=77, disk_mib=5, walltime_s=60)
    gate = driver.directory / "gate"
    attempt = driver.gated(gate, hints={"htcondor": hints}, resources=wanted)
    (answer,) = driver.run(attempt)
    driver.wait_for(gate.with_name("gate.ledger").exists, "an accepted job starts")
    names = ["AcctGroup", "JobPrio", "ProjectName", "WantHelp", "RequestMemory", "RequestGPUs", "MaxRuntime"]
    told = pool.run("condor_q", answer.native_id, "-af", *names).split()
    gate.touch()
    assert told == ["group_a.b", "7", "x", "2", "77", "1", str(60 + 1 + 60)]
    assert driver.end(attempt).ok


def test_one_cluster_that_htcondor_makes_little_by_little(pool, open_driver):
    driver = open_driver(max_materialize=5)
    attempts = [ledger_job(driver, number) for number in range(30)]
    answers = driver.run(*attempts)
    assert len({answer.native_id.partition(".")[0] for answer in answers}) == 1
    assert all(driver.end(attempt).ok for attempt in attempts)
    assert ledger(driver) == list(range(30))


def test_a_cluster_that_is_only_partly_made_is_cancelled_as_one(pool, open_driver):
    driver = open_driver(max_materialize=3)
    hints = {"htcondor": {"requirements": "NoSuchThing"}}
    attempts = [ledger_job(driver, number, hints=hints) for number in range(20)]
    (first, *_) = driver.run(*attempts)
    told(driver, attempts[-1], lambda status: status.native_state == "not materialized")
    made = driver.backend.budget.made
    driver.cancel(*attempts)
    assert {driver.end(attempt).reason for attempt in attempts} == {Reason.CANCELLED}
    assert driver.backend.budget.made - made < 10
    cluster = first.native_id.partition(".")[0]
    assert pool.run("condor_q", cluster, "-af", "ClusterId") == ""
    assert ledger(driver) == []


def test_what_no_machine_can_run_says_why(open_driver):
    driver = open_driver()
    attempt = ledger_job(driver, resources=Resources(memory_mib=921_600_000))
    driver.run(attempt)
    told(driver, attempt, lambda status: "no match found for 1 cores, 921600000 MB" in status.message)
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


def test_a_job_that_is_killed_from_outside(pool, open_driver):
    """The script cannot write a record; the history has the scheduler's word."""
    driver = open_driver()
    attempt = driver.shell("kill -9 $PPID; sleep 1")
    driver.run(attempt)
    assert driver.end(attempt).reason in (Reason.KILLED, Reason.EXIT_CODE)


def test_a_refusal_has_htcondors_words(open_driver):
    driver = open_driver(attributes={"Broken": "3 = = 3"})  # what a site says is its own affair
    attempt = ledger_job(driver)
    (answer,) = driver.submit(attempt)
    assert "Parse error" in answer.message
    assert driver.find(attempt) == {}


def test_a_shadow_that_is_killed(pool, open_driver):
    """What HTCondor watches a job with. Nothing is told before the job has ended on its machine, too."""
    driver = open_driver(grace_s=15.0, settle_s=60.0)
    ledger = driver.directory / "ledger"
    script = (
        'trap \'sleep 1; echo ended >> "$1"; exit\' TERM; echo started >> "$1"; while :; do sleep 0.1; done'
    )
    attempt = driver.shell(script, str(ledger))
    driver.run(attempt)
    driver.wait_for(ledger.exists, "an accepted job starts")
    pool.kill("condor_shadow")
    result = driver.end(attempt)
    assert ledger.read_text() == "started\nended\n"
    assert result.reason is Reason.EVICTED
