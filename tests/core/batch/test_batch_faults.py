"""A scheduler that is down, deaf, slow or forgetful loses no job, doubles none and fails none."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from drawbar import batch, batchscript
from drawbar.backend import Accepted, InDoubt, Refused
from drawbar.batchjobs import Jobs
from drawbar.batchresults import Seen
from drawbar.batchscript import Submitted
from drawbar.errors import BackendError
from drawbar.model import JobState, Reason, Resources


def ledger_job(driver, number=1):
    return driver.shell('echo "$2" >> "$1"', str(driver.directory / "ledger"), str(number))


def ledger(driver):
    path = driver.directory / "ledger"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def test_a_burst_is_one_submission_and_few_questions(driver, fake):
    attempts = [ledger_job(driver, number) for number in range(50)]
    answers = driver.run(*attempts)
    assert len({answer.native_id for answer in answers}) == 50
    for attempt in attempts:
        driver.end(attempt)
    assert ledger(driver) == list(range(50))
    assert fake.calls("qsub") == 1
    assert fake.calls("qstat") < 15


def test_jobs_that_ask_for_different_things_are_submitted_apart(driver, fake):
    attempts = [driver.shell("exit 0", resources=Resources(cpus=1 + number % 2)) for number in range(4)]
    driver.run(*attempts)
    for attempt in attempts:
        driver.end(attempt)
    assert fake.calls("qsub") == 2


def test_a_scheduler_that_is_away_delays_jobs_and_fails_none(driver, fake):
    fake.set("down")
    attempts = [ledger_job(driver, number) for number in range(3)]
    answers = driver.submit(*attempts)
    assert all(isinstance(answer, Accepted) for answer in answers)
    driver.wait_for(lambda: any("cannot connect" in each for each in driver.watch.troubles), "it is told")
    with pytest.raises(BackendError, match="cannot connect"):
        driver.find(*attempts)
    fake.clear("down")
    for attempt in attempts:
        assert driver.end(attempt).ok
    assert ledger(driver) == [0, 1, 2]
    assert driver.watch.troubles[-1] == ""


def last(driver, attempt):
    """What was told last of an attempt."""
    return driver.watch.of(attempt)[-1]


def test_a_job_says_that_it_waits_to_be_handed_over_and_why(driver, fake):
    fake.set("full")
    first, behind = ledger_job(driver, 1), ledger_job(driver, 2)
    driver.submit(first)
    driver.submit(behind)
    full = "it waits to be handed over: qsub: would exceed queue generic's per-user limit"
    for attempt in (first, behind):
        status = last(driver, attempt)
        assert (status.state, status.message) == (JobState.SUBMITTED, full)
        assert driver.find(attempt)[attempt.tag].message == full
    fake.set("down")
    for attempt in (first, behind):
        driver.wait_for(lambda each=attempt: "cannot connect" in last(driver, each).message, "the new word")
    fake.set("paused")
    fake.clear("full")
    fake.clear("down")
    for attempt in (first, behind):
        driver.wait_for(lambda each=attempt: last(driver, each).native_state == "Q", "it is in the queue")
        assert last(driver, attempt).message == ""
    fake.clear("paused")
    for attempt in (first, behind):
        assert driver.end(attempt).ok
    assert ledger(driver) == [1, 2]


def test_a_scheduler_that_answers_and_takes_no_job_is_one_trouble_until_it_takes_it(driver, fake):
    gate = driver.directory / "gate"
    running = driver.gated(gate)
    driver.run(running)
    fake.set("full")
    waits = ledger_job(driver)
    driver.submit(waits)
    fake.wait_for_call("qsub", 4)  # the queue was asked in between, and answered
    assert [each for each in driver.watch.troubles if each] == driver.watch.troubles
    fake.clear("full")
    gate.touch()
    assert driver.end(waits).ok
    assert driver.end(running).ok
    driver.wait_for(lambda: driver.watch.troubles[-1] == "", "the trouble is over")
    assert len(driver.watch.troubles) == 2


def test_what_waits_for_the_scheduler_can_be_cancelled(driver, fake):
    fake.set("down")
    unwanted, wanted = ledger_job(driver, 1), ledger_job(driver, 2)
    driver.submit(unwanted)
    driver.submit(wanted)
    driver.cancel(unwanted)
    assert driver.end(unwanted).reason is Reason.CANCELLED
    fake.clear("down")
    assert driver.end(wanted).ok
    assert ledger(driver) == [2]


def test_a_job_refused_after_waiting_ends_as_rejected(driver, fake):
    fake.set("down")
    attempt = ledger_job(driver)
    driver.submit(attempt)
    fake.set("refusing")
    fake.clear("down")
    result = driver.end(attempt)
    assert (result.reason, result.message) == (Reason.REJECTED, "qsub: Unknown queue")


def test_a_refusal_has_the_schedulers_words(driver, fake):
    fake.set("refusing")
    attempt = ledger_job(driver)
    (answer,) = driver.submit(attempt)
    assert answer == Refused(message="qsub: Unknown queue")
    assert driver.find(attempt) == {}


def test_a_wish_that_cannot_be_passed_on_is_refused_before_the_scheduler_hears_of_it(driver, fake):
    attempt = driver.shell("exit 0", hints={"pbs": {"pbs_queue": "x -l walltime=99"}})
    assert "pbs_queue" in driver.backend.refuses(attempt.spec)
    (answer,) = driver.submit(attempt)
    assert isinstance(answer, Refused)
    assert "pbs_queue" in answer.message
    assert fake.calls("qsub") == 0


def test_a_batch_that_was_taken_without_an_answer_is_found(open_driver, fake):
    driver = open_driver(call_timeout_s=1.0)
    fake.set("deaf", "taken")
    attempts = [ledger_job(driver, number) for number in range(2)]
    answers = driver.submit(*attempts)
    assert all(isinstance(answer, InDoubt) for answer in answers)
    fake.clear("deaf")
    assert driver.find(*attempts).keys() == {attempt.tag for attempt in attempts}
    for attempt in attempts:
        assert driver.end(attempt).ok
    assert ledger(driver) == [0, 1]


def test_one_submission_in_doubt_does_not_bring_others_into_doubt(open_driver, fake):
    driver = open_driver(call_timeout_s=1.0)
    fake.set("deaf", "taken")
    first, *others = [driver.shell("exit 0", resources=Resources(cpus=cpus)) for cpus in (1, 2, 3)]
    answers = driver.submit(first, *others)
    assert [type(answer) for answer in answers] == [InDoubt, Accepted, Accepted]
    (answer,) = driver.submit(last := ledger_job(driver))
    assert isinstance(answer, Accepted)
    fake.clear("deaf")
    assert all(driver.end(attempt).ok for attempt in (first, *others, last))
    assert fake.calls("qsub") == 4


def test_a_batch_that_never_arrived_is_lost_and_cannot_start_any_more(open_driver, fake):
    driver = open_driver(call_timeout_s=1.0)
    fake.set("deaf", "not taken")
    attempt = ledger_job(driver)
    (answer,) = driver.submit(attempt)
    assert isinstance(answer, InDoubt)
    fake.clear("deaf")
    result = driver.end(attempt)
    assert result.reason is Reason.LOST
    assert "does not know it" in result.message
    late = subprocess.run([f"{attempt.record}/batch/launcher"], check=True, capture_output=True)
    assert late.stderr == b""
    assert ledger(driver) == []


def test_what_a_driver_wrote_down_and_never_submitted_is_lost_for_the_next_one(driver, fake):
    fake.set("down")
    attempt = ledger_job(driver)
    driver.submit(attempt)
    driver.close()
    fake.clear("down")
    driver.open()
    assert driver.find(attempt)[attempt.tag].state is JobState.SUBMITTED
    assert driver.end(attempt).reason is Reason.LOST
    assert ledger(driver) == []


def test_a_job_that_waits_in_the_queue_can_be_cancelled(driver, fake):
    fake.set("paused")
    attempts = [ledger_job(driver, number) for number in range(3)]
    driver.run(*attempts)
    driver.cancel(*attempts)
    for attempt in attempts:
        assert driver.end(attempt).reason is Reason.CANCELLED
    assert ledger(driver) == []
    assert fake.calls("qdel") == 1


def test_a_job_found_after_a_restart_can_be_cancelled(driver, fake):
    gate = driver.directory / "gate"
    attempt = driver.gated(gate)
    driver.run(attempt)
    driver.wait_for(gate.with_name("gate.ledger").exists, "it starts")
    driver.close()
    driver.open()
    driver.cancel(attempt)
    assert driver.end(attempt).reason is Reason.CANCELLED


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_job_whose_node_dies_is_not_a_success(driver, fake, forgetful):
    if forgetful:
        fake.set("forgetful")
    gate, pid = driver.directory / "gate", driver.directory / "pid"
    attempt = driver.shell(
        'echo $PPID > "$2.new"; mv "$2.new" "$2"; while [ ! -e "$1" ]; do sleep 0.05; done',
        str(gate),
        str(pid),
    )
    driver.run(attempt)
    driver.wait_for(pid.exists, "it starts")
    os.kill(int(pid.read_text()), signal.SIGKILL)  # the script, which can leave no record then
    gate.touch()
    result = driver.end(attempt)
    if forgetful:
        assert result.reason is Reason.LOST
        assert "any more" in result.message
    else:
        assert (result.reason, result.exit_code) == (Reason.EXIT_CODE, 137)
    assert result.host
    assert result.started


def test_a_batch_is_no_larger_than_the_site_allows(open_driver, fake):
    driver = open_driver(batch_size=4)
    attempts = [ledger_job(driver, number) for number in range(10)]
    driver.run(*attempts)
    for attempt in attempts:
        driver.end(attempt)
    assert fake.calls("qsub") == 3
    assert ledger(driver) == list(range(10))


def test_calls_of_the_scheduler_stay_in_their_budget(open_driver, fake):
    driver = open_driver(calls_per_minute=24.0, poll_s=0.1)
    gate = driver.directory / "gate"
    attempt = driver.gated(gate)
    driver.run(attempt)
    fake.wait_for_call("qstat", 5)  # the burst is six, with the submission
    assert fake.calls("qstat") == 5
    gate.touch()
    assert driver.end(attempt).ok  # told by its record, while there is no call left


def test_check_runs_a_job_and_says_what_is_wrong(open_driver, fake, tmp_path):
    driver = open_driver(check_directory=str(tmp_path), check_s=20.0)
    before = sorted(tmp_path.iterdir())
    assert driver.call(driver.backend.check) == []
    fake.set("refusing")
    (problem,) = driver.call(driver.backend.check)
    assert "Unknown queue" in problem.message
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_command_is_named(open_driver):
    driver = open_driver(bin_directory="/nowhere")
    (answer,) = driver.submit(driver.shell("exit 0"))
    assert "no command 'qsub'" in answer.message
    assert Path("/nowhere").exists() is False


def test_an_end_is_seen_while_a_question_to_the_scheduler_is_not_answered(driver, fake):
    fake.set("silent")
    gate = driver.directory / "gate"
    attempt = driver.gated(gate)
    driver.run(attempt)
    fake.wait_for_call("qstat", 1)
    gate.touch()
    assert driver.end(attempt).ok
    assert fake.calls("qstat") == 1  # it has not even answered that one
    fake.clear("silent")


def test_an_end_is_seen_while_the_scheduler_says_that_the_job_runs(driver, fake):
    fake.set("stuck")
    attempt = ledger_job(driver)
    driver.run(attempt)
    assert driver.end(attempt).ok
    assert driver.find(attempt)[attempt.tag].state is JobState.FINISHED


def test_one_look_after_the_end_is_enough_and_the_next_look_is_never_far(driver, fake):
    """So an end is known within the time between two looks and that of one, whatever the scheduler says."""
    assert batch.LOOK_S <= 0.5
    told = []

    class Never:
        def queue(self):
            raise AssertionError("it is not asked")

    jobs = Jobs(Never(), settle_s=1, poll_s=1, tell=told.extend)
    attempts = [driver.shell("exit 0") for _ in range(3)]
    for index, attempt in enumerate(attempts, 1):
        record = Path(attempt.record)
        (record / "notices").mkdir(parents=True)
        jobs.add(attempt, Submitted(batch="b", index=index, directory=attempt.record), handed_over=True)
        (record / "end").write_text("exit=0\nstarted=1\nfinished=2\nhost=n1\n")
    jobs.look()
    assert told == []  # a job writes its record first, and then its notice
    for index, attempt in enumerate(attempts, 1):
        Path(attempt.record, "notices", str(index)).touch()
    jobs.look()
    assert [(each.tag, each.state) for each in told] == [
        (attempt.tag, JobState.FINISHED) for attempt in attempts
    ]
    jobs.look()
    assert len(told) == 3


def test_nothing_is_told_of_a_job_after_its_end(driver, tmp_path):
    """The scheduler said that it runs; its record is seen before that is told."""
    told = []

    class Slow:
        def queue(self):
            return [Seen(batch="b", index=1, state=JobState.RUNNING)]

        def history(self, names):  # of the other job
            (tmp_path / "notices" / "1").touch()
            jobs.look()
            return ()

        def collect(self, attempt, place):
            pass

    jobs = Jobs(Slow(), settle_s=60, poll_s=1, tell=told.extend)
    (tmp_path / "notices").mkdir()
    for index in (1, 2):
        attempt = driver.shell("exit 0")
        Path(attempt.record).mkdir(parents=True)
        jobs.add(attempt, Submitted(batch="b", index=index, directory=str(tmp_path)), handed_over=True)
        if index == 1:
            Path(attempt.record, "end").write_text("exit=0\n")
    jobs.ask()
    assert [each.state for each in told] == [JobState.FINISHED]


@pytest.fixture(params=["lost", "empty", "torn"])
def crash(request):
    """What a crash of the submitting machine leaves of a file that was not flushed."""

    def crash(path: Path) -> None:
        if request.param == "lost":
            path.unlink()
        else:
            os.truncate(path, 0 if request.param == "empty" else path.stat().st_size * 2 // 3)

    return crash


def test_a_job_that_began_is_found_though_its_submission_is_lost(driver, fake, crash):
    gates = [driver.directory / f"gate{number}" for number in range(2)]
    attempts = [driver.gated(gate) for gate in gates]
    driver.run(*attempts)
    for gate in gates:
        driver.wait_for(gate.with_name(f"{gate.name}.ledger").exists, "it starts")
    driver.close()
    for attempt in attempts:
        crash(Path(attempt.record, "submission"))
    driver.open()
    found = driver.find(*attempts)
    assert [found[attempt.tag].state for attempt in attempts] == [JobState.RUNNING] * 2
    for gate, attempt in zip(gates, attempts, strict=True):
        gate.touch()
        assert driver.end(attempt).ok
        assert gate.with_name(f"{gate.name}.ledger").read_text() == "started\n"


def test_a_job_that_did_not_begin_cannot_any_more_once_its_submission_is_lost(driver, fake, crash):
    fake.set("paused")
    attempts = [ledger_job(driver, number) for number in range(2)]
    driver.run(*attempts)
    driver.close()
    for attempt in attempts:
        crash(Path(attempt.record, "submission"))
    driver.open()
    assert driver.find(*attempts) == {}  # so it is repeated
    fake.clear("paused")
    for attempt in attempts:
        driver.wait_for(Path(attempt.record, "again").exists, "the job comes too late")
    assert ledger(driver) == []


def test_a_script_that_a_crash_left_incomplete_does_nothing(driver, fake, crash):
    fake.set("paused")
    attempts = [ledger_job(driver, number) for number in range(2)]
    driver.run(*attempts)
    for attempt in attempts:
        crash(Path(attempt.record, "job"))
    fake.clear("paused")
    for attempt in attempts:
        assert driver.end(attempt).reason is Reason.LOST
    assert ledger(driver) == []


def test_what_will_be_repeated_is_closed_on_disk_before_it_is_told(open_driver, fake, monkeypatch):
    order = []
    flush = batchscript.flush

    def note(records):
        order.extend(records := list(records))
        flush(records)

    monkeypatch.setattr(batchscript, "flush", note)
    driver = open_driver(call_timeout_s=1.0)
    never = ledger_job(driver)
    Path(never.record).parent.mkdir(parents=True, exist_ok=True)
    assert driver.find(never) == {}
    assert order == [never.record]
    fake.set("deaf", "not taken")
    lost = ledger_job(driver)
    driver.submit(lost)
    tell = driver.backend._jobs._sink
    driver.backend._jobs._sink = lambda statuses: (order.append(statuses[-1].state), tell(statuses))
    fake.clear("deaf")
    assert driver.end(lost).reason is Reason.LOST
    assert order == [never.record, lost.record, JobState.FAILED]


def test_a_slow_scheduler_is_asked_more_rarely(driver, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("drawbar.batchjobs.time", SimpleNamespace(monotonic=lambda: clock[0]))

    class Slow:
        def queue(self):
            clock[0] += 4.0
            return [Seen(batch="b")]

    jobs = Jobs(Slow(), settle_s=1, poll_s=1, tell=lambda _: None)
    place = Submitted(batch="b", index=0, directory=str(tmp_path))
    jobs.add(driver.shell("exit 0"), place, handed_over=True)
    clock[0] += 1.0
    assert jobs.due
    jobs.ask()
    jobs.hurry()
    clock[0] += 19.0
    assert not jobs.due
    clock[0] += 1.0
    assert jobs.due
