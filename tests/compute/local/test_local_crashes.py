"""Jobs of the local backend when drivers, supervisors or both are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawbar.backend import Accepted, InDoubt
from drawbar.model import JobState, Reason
from drawbar_local import processes, records
from local_driver import attempt as make_attempt

GATED = 'echo $$ > "pid-{0}"; echo {0} >> ledger; while [ ! -e gate ]; do sleep 0.02; done; exit {0}'


class Victim:
    """A driver in a process of its own."""

    def __init__(self, directory: Path, runtime: Path, *terminal: str) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("local_driver.py")), directory, runtime, *terminal],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, *jobs) -> None:
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()

    def submit(self, *jobs) -> int:
        """The process id of the supervisor, when it has the jobs."""
        self.tell(*jobs)
        return int(self.process.stdout.readline())

    def end(self) -> None:
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.end()


@pytest.fixture
def directory(tmp_path):
    path = (tmp_path / "workspace").resolve()
    path.mkdir()
    return path


@pytest.fixture
def victim(directory, runtime):
    """Starts drivers to be killed."""
    victims = []

    def start(*terminal):
        victims.append(Victim(directory, runtime, *terminal))
        return victims[-1]

    yield start
    for each in victims:
        if each.process.returncode is None:
            each.kill()


def jobs(*numbers):
    return [(number, GATED.format(number)) for number in numbers]


def attempts(directory, *numbers):
    return [make_attempt(directory, number, script) for number, script in jobs(*numbers)]


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def gone(pid: int) -> bool:
    stat = processes._stat(pid)
    return stat is None or stat[0] in b"ZX"


def started(directory, *numbers):
    """The process ids of jobs, when they have told them."""
    files = [directory / f"pid-{number}" for number in numbers]
    wait_for(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files))
    return [int(file.read_text()) for file in files]


def test_a_new_driver_adopts_the_jobs_of_a_killed_one(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(0, 1, 2), (3, "exit 33"))
    started(directory, 0, 1, 2)
    dead.kill()
    driver = open_driver()
    *alive, ended, never = [
        *attempts(directory, 0, 1, 2),
        make_attempt(directory, 3, "exit 33"),
        make_attempt(directory, 4, "exit 0"),
    ]
    wait_for(lambda: driver.find(ended)[ended.tag].state.terminal)
    found = driver.find(*alive, ended, never)
    assert found[ended.tag].result.exit_code == 33
    assert never.tag not in found
    assert {found[each.tag].state for each in alive} == {JobState.RUNNING}
    (directory / "gate").touch()
    assert [driver.end(each).exit_code for each in alive] == [0, 1, 2]
    assert all(sum(status.state.terminal for status in driver.watch.of(each)) == 1 for each in alive)


def test_an_adopted_job_can_be_cancelled(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1))
    dead.kill()
    driver = open_driver()
    (job,) = attempts(directory, 1)
    driver.cancel(job)  # without having looked for it
    assert driver.end(job).reason is Reason.CANCELLED


def test_submitting_again_after_a_crash_starts_nothing(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1), (2, "echo 2 >> ledger"))
    dead.kill()
    driver = open_driver()
    one, two = attempts(directory, 1)[0], make_attempt(directory, 2, "echo 2 >> ledger")
    assert all(isinstance(answer, Accepted) for answer in driver.submit(one, two))
    (directory / "gate").touch()
    assert driver.end(one).exit_code == 1
    assert driver.end(two).exit_code == 0
    assert sorted((directory / "ledger").read_text().split()) == ["1", "2"]


def test_two_drivers_see_the_same_end(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1))
    dead.kill()
    (job,) = attempts(directory, 1)
    first, second = open_driver(), open_driver()
    assert first.find(job)[job.tag].state is second.find(job)[job.tag].state is JobState.RUNNING
    (directory / "gate").touch()
    assert first.end(job) == second.end(job)


def test_a_job_that_ends_while_it_is_looked_for_is_found(victim, directory, open_driver, monkeypatch):
    """Its record said alive; by the time its supervisor is asked, it has ended."""
    dead = victim()
    dead.submit(*jobs(1), *jobs(2))
    dead.kill()
    driver = open_driver()
    one, two = attempts(directory, 1, 2)
    assert driver.find(two)[two.tag].state is JobState.RUNNING  # keeps the supervisor alive, and connected
    read = records.read

    def late(path):
        record = read(path)
        if path == one.record:
            monkeypatch.setattr(records, "read", read)
            (directory / "gate").touch()
            wait_for(lambda: not read(path).held)
            driver.end(two)
        return record

    monkeypatch.setattr(records, "read", late)
    assert driver.find(one)[one.tag].result.exit_code == 1
    assert driver.find(one)[one.tag].result.exit_code == 1


def test_a_closed_terminal_ends_the_driver_and_not_its_jobs(victim, directory, open_driver):
    master, slave = os.openpty()
    leader = victim(os.ttyname(slave))
    os.close(slave)
    leader.submit(*jobs(1))
    (pid,) = started(directory, 1)
    os.close(master)
    leader.end()
    assert leader.process.returncode == -signal.SIGHUP
    assert not gone(pid)
    driver = open_driver()
    (job,) = attempts(directory, 1)
    assert driver.find(job)[job.tag].state is JobState.RUNNING
    (directory / "gate").touch()
    assert driver.end(job).exit_code == 1


ESCAPING = (
    'setsid sh -c "echo \\$\\$ > pid-a; sleep 100" & '
    f"(setsid sleep 100 {records.LOCK_FD}>&- & echo $! > pid-b) & "
    "(env -i sleep 100 & echo $! > pid-c) & "
    "echo $$ > pid-d; sleep 100"
)
"""Four kinds of processes: in a session of its own, without the lock, without the tag, the leader."""


@pytest.mark.parametrize("watcher", ["pidfd", "signal"])
def test_the_jobs_of_a_killed_supervisor_are_ended_and_lost(directory, open_driver, watcher):
    driver = open_driver(watcher=watcher)
    done, escaping, *others = [
        make_attempt(directory, 1, "exit 1"),
        make_attempt(directory, 2, ESCAPING),
        *attempts(directory, 3, 4),
    ]
    driver.run(done, escaping, *others)
    assert driver.end(done).exit_code == 1
    pids = started(directory, "a", "b", "c", "d", 3, 4)
    os.kill(driver.backend._own.child, signal.SIGKILL)
    for job in (escaping, *others):
        assert driver.end(job).reason is Reason.LOST
    assert all(map(gone, pids))
    assert driver.find(escaping)[escaping.tag].result.reason is Reason.LOST
    assert driver.find(done)[done.tag].result.exit_code == 1
    again = make_attempt(directory, 3, "exit 5", tries=2)
    driver.run(again)
    assert driver.end(again).exit_code == 5


def test_driver_and_supervisor_killed_together(victim, directory, open_driver):
    dead = victim()
    supervisor = dead.submit(*jobs(1, 2), (3, ESCAPING), (4, "exit 44"))
    pids = started(directory, 1, 2, "a", "b", "c", "d")
    ended = make_attempt(directory, 4, "")
    wait_for(lambda: (records.read(ended.record) or records.Record(b"", held=True)).end)
    dead.process.send_signal(signal.SIGSTOP)  # so that it does not clean up
    os.kill(supervisor, signal.SIGKILL)
    dead.kill()
    driver = open_driver()
    lost = [*attempts(directory, 1, 2), make_attempt(directory, 3, "")]
    found = driver.find(*lost, ended)
    assert found[ended.tag].result.exit_code == 44
    for job in lost:
        result = found[job.tag].result or driver.end(job)
        assert result.reason is Reason.LOST
    assert all(map(gone, pids))


def test_a_supervisor_killed_while_it_is_asked_leaves_a_doubt(directory, open_driver):
    driver = open_driver()
    first = make_attempt(directory, 0, "exit 0")
    driver.run(first)
    driver.end(first)
    supervisor = driver.backend._own.child
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    job = make_attempt(directory, 1, "echo 1 >> ledger; exit 1")
    (answer,) = driver.submit(job)
    if isinstance(answer, InDoubt):
        assert job.tag not in driver.find(job)
        driver.run(job)
    assert driver.end(job).exit_code == 1
    assert (directory / "ledger").read_text() == "1\n"


def test_an_orphan_that_ends_by_itself_is_lost(victim, directory, open_driver):
    dead = victim()
    supervisor = dead.submit(*jobs(1))
    dead.process.send_signal(signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    (directory / "gate").touch()
    (pid,) = started(directory, 1)
    wait_for(lambda: gone(pid))
    dead.kill()
    driver = open_driver()
    (job,) = attempts(directory, 1)
    assert driver.find(job)[job.tag].result.reason is Reason.LOST


def test_a_supervisor_that_cannot_be_reached_is_believed(victim, directory, runtime, open_driver):
    """Its socket is gone, but it lives, and so do its jobs: their records tell."""
    dead = victim()
    supervisor = dead.submit(*jobs(1))
    dead.kill()
    (path,) = runtime.iterdir()
    path.rename(path.with_name("hidden"))
    driver = open_driver()
    (job,) = attempts(directory, 1)
    assert driver.find(job)[job.tag].state is JobState.RUNNING
    assert not driver.find()
    (directory / "gate").touch()
    assert driver.end(job).exit_code == 1
    wait_for(lambda: gone(supervisor))
    (runtime / "hidden").unlink()


def test_processes_of_another_machine_are_left_alone(victim, directory, open_driver, monkeypatch):
    dead = victim()
    supervisor = dead.submit(*jobs(1))
    (pid,) = started(directory, 1)
    dead.process.send_signal(signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    monkeypatch.setattr("drawbar_local.strays.HOST", "elsewhere")
    driver = open_driver()
    (job,) = attempts(directory, 1)
    assert driver.find(job)[job.tag].state is JobState.RUNNING
    looked = []
    monkeypatch.setattr(records, "read", lambda path, read=records.read: (looked.append(path), read(path))[1])
    wait_for(lambda: len(looked) > 3)
    assert not gone(pid)
    (directory / "gate").touch()
    assert driver.end(job).reason is Reason.LOST
    dead.kill()


def test_a_storm_of_killed_drivers_loses_and_doubles_nothing(victim, directory, open_driver):
    """The ledger is the judge: it is written by the jobs."""
    storm = random.Random(7)
    script = "echo {0} >> ledger; sleep 0.0{1}; exit {0}"
    numbers = range(60)
    work = {number: script.format(number, storm.randrange(1, 9)) for number in numbers}
    remaining = list(numbers)
    while remaining:
        dead = victim()
        batches = [remaining[index : index + 5] for index in range(0, 15, 5)]
        dead.submit(*[(number, work[number]) for number in batches[0]])
        for batch in batches[1:]:
            dead.tell(*[(number, work[number]) for number in batch])
        time.sleep(storm.random() * 0.02)  # the instant of the kill; nothing is waited for
        dead.kill()
        remaining = remaining[15:]
    driver = open_driver()
    everything = [make_attempt(directory, number, work[number]) for number in numbers]
    found = driver.find(*everything)
    missing = [each for each in everything if each.tag not in found]
    driver.run(*missing)
    for number, each in zip(numbers, everything, strict=True):
        status = found.get(each.tag)
        result = (status and status.result) or driver.end(each)
        assert result.exit_code == number
    assert sorted(map(int, (directory / "ledger").read_text().split())) == list(numbers)


def test_a_storm_of_killed_supervisors_never_lets_two_attempts_overlap(directory, open_driver):
    """What the first attempt writes stands before the second begins, and one attempt gets to its end."""
    storm = random.Random(11)
    driver = open_driver()
    script = (
        "for i in 1 2 3 4; do echo {0} {1} $i >> ledger; sleep 0.02; done & "
        "setsid sh -c 'for i in 1 2 3 4; do echo {0} {1} $i >> ledger; sleep 0.02; done' & wait"
    )

    def job(number, tries):
        return make_attempt(directory, number, script.format(number, tries), tries=tries)

    def submit(new):
        while new:
            answers = driver.submit(*new)
            doubtful = [
                each for each, answer in zip(new, answers, strict=True) if isinstance(answer, InDoubt)
            ]
            found = driver.find(*doubtful)
            new = [each for each in doubtful if each.tag not in found]

    current = {number: job(number, 1) for number in range(20)}
    submit(list(current.values()))
    kills = 0
    while current:
        if kills < 8 and driver.backend._own:
            time.sleep(storm.random() * 0.06)  # the instant of the kill; nothing is waited for
            if own := driver.backend._own:
                os.kill(own.child, signal.SIGKILL)
                kills += 1
        ends = {number: driver.end(each) for number, each in current.items()}
        for number, result in ends.items():
            if result.ok:
                del current[number]
            else:
                assert result.reason is Reason.LOST
                current[number] = job(number, current[number].number + 1)
        submit(list(current.values()))
    lines = [tuple(map(int, line.split())) for line in (directory / "ledger").read_text().splitlines()]
    for number in range(20):
        own = [line[1:] for line in lines if line[0] == number]
        assert [tries for tries, _ in own] == sorted(tries for tries, _ in own)
        last = max(tries for tries, _ in own)
        assert [tries for tries, step in own if step == 4].count(last) == 2


def test_nothing_is_left_when_nobody_needs_it(directory, open_driver, runtime):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        driver = open_driver()
        job = make_attempt(directory, number, "exit 0")
        driver.run(job)
        driver.end(job)
        driver.find(job)
        driver.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not list(runtime.iterdir())


def test_a_supervisor_without_driver_ends_after_its_last_job(victim, directory, runtime):
    dead = victim()
    supervisor = dead.submit(*jobs(1))
    dead.kill()
    assert not gone(supervisor)
    (directory / "gate").touch()
    wait_for(lambda: gone(supervisor))
    assert not list(runtime.iterdir())
    assert records.read(attempts(directory, 1)[0].record).end["exit"] == 1
