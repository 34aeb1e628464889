"""What goes wrong with a real HTCondor, and what drawbar says and does then."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from drawbar.backend import Accepted, InDoubt
from drawbar.model import JobState, Reason

pytestmark = pytest.mark.htcondor


@contextmanager
def stopped(pid):
    """The process does not answer; a guard lets it go on even if this one cannot."""
    guard = subprocess.Popen(["sh", "-c", 'sleep 30; kill -CONT "$0"', str(pid)], start_new_session=True)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
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


def test_the_schedd_stops_answering_during_a_submission(pool, open_driver):
    driver = open_driver(call_timeout_s=3.0)
    attempts = [ledger_job(driver, number) for number in range(5)]
    with stopped(pool.pid("condor_schedd")):
        answers = driver.submit(*attempts)
        assert all(isinstance(answer, InDoubt | Accepted) for answer in answers)
    results = [driver.end(attempt) for attempt in attempts]
    assert all(result.ok or result.reason is Reason.LOST for result in results)
    assert ledger(driver) == [number for number, result in enumerate(results) if result.ok]


def test_the_schedd_stops_answering_while_jobs_run(pool, open_driver):
    driver = open_driver()
    attempt, _, gate = started(driver)
    with stopped(pool.pid("condor_schedd")):
        gate.touch()
        assert driver.end(attempt).ok  # by its record
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


def test_what_no_machine_can_run_says_why(open_driver):
    driver = open_driver()
    attempt = ledger_job(driver, hints={"htcondor": {"htcondor_requirements": "NoSuchThing"}})
    driver.run(attempt)
    told(driver, attempt, lambda status: "no match" in status.message)
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


def test_a_job_that_is_killed_from_outside(pool, open_driver):
    """The script cannot write a record; the history has the scheduler's word."""
    driver = open_driver()
    attempt = driver.shell("kill -9 $PPID; sleep 1")
    driver.run(attempt)
    assert driver.end(attempt).reason in (Reason.KILLED, Reason.EXIT_CODE)


def test_a_refusal_has_htcondors_words(open_driver):
    driver = open_driver()
    attempt = ledger_job(driver, hints={"htcondor": {"requirements": "Foo == = 3"}})
    (answer,) = driver.submit(attempt)
    assert "Parse error" in answer.message
    assert driver.find(attempt) == {}


DRIVER = """
import os, pickle, sys
os.umask(0)
from drawbar_htcondor.backend import HTCondorBackend
from drawbar.testing.driver import Watch
attempts, options, point = pickle.load(sys.stdin.buffer)
backend = HTCondorBackend(HTCondorBackend.Options.parse(options, where="test"))
def strike():
    print("now", flush=True)
    __import__("time").sleep(3600)
if point == "written":
    backend.hand_over = lambda batch: strike()
elif point == "handed over":
    hand_over = backend.hand_over
    backend.hand_over = lambda batch: (hand_over(batch), strike())
elif point == "writing":
    from drawbar import batchscript
    batchscript.launcher = lambda *_: strike()
backend.start(Watch())
backend.submit(attempts)
strike()
"""


@pytest.mark.parametrize("point", ["writing", "written", "handed over", "answered"])
def test_a_driver_killed_at_any_stage_of_a_submission(pool, open_driver, point):
    """No job is lost without a word, and none runs twice."""
    driver = open_driver()
    attempts = [ledger_job(driver, number) for number in range(4)]
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(pickle.dumps((attempts, pool.options, point)))
    process.stdin.flush()
    assert process.stdout.readline() == b"now\n"
    process.kill()
    process.communicate()
    found = driver.find(*attempts)
    results = {tag: driver.watch.end(each, 60).result for each in attempts if (tag := each.tag) in found}
    ok = [number for number, each in enumerate(attempts) if (r := results.get(each.tag)) and r.ok]
    assert all(result.ok or result.reason is Reason.LOST for result in results.values())
    assert ledger(driver) == ok
    if point in ("handed over", "answered"):
        assert len(ok) == len(attempts)
    again = driver.submit(*attempts)
    assert all(isinstance(answer, Accepted | InDoubt) for answer in again)
    fence = driver.shell("exit 0")
    driver.run(fence)
    driver.end(fence)
    assert ledger(driver) == ok
