"""Jobs of the docker backend when drivers, containers or the engine itself go away."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from docker_driver import attempt as make_attempt
from docker_driver import wait_for
from drawbar.model import JobState, Reason, Resources
from drawbar_docker import containers, forgotten, records

pytestmark = [
    # The docker library forgets the socket of a connection that was refused.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
    ),
]

GATED = "echo {0} >> ledger; while [ ! -e gate ]; do sleep 0.05; done; exit {0}"


def jobs(*numbers):
    return [(number, GATED.format(number)) for number in numbers]


def attempts(directory, *numbers):
    return [make_attempt(directory, number, script) for number, script in jobs(*numbers)]


def ledger(directory):
    path = directory / "ledger"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def runs(driver, job):
    """Whether the engine has answered that the job is started."""
    return any(status.state is JobState.RUNNING for status in driver.watch.of(job))


class Victim:
    """A driver in a process of its own."""

    def __init__(self, directory: Path) -> None:
        program = Path(__file__).with_name("docker_driver.py")
        self.process = subprocess.Popen(
            [sys.executable, program, directory],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def tell(self, *work) -> None:
        self.process.stdin.write(json.dumps(work) + "\n")
        self.process.stdin.flush()

    def submit(self, *work) -> None:
        self.tell(*work)
        assert self.process.stdout.readline() == "submitted\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def _sockets():
    """What the library forgot is found here, where it is expected."""
    yield
    gc.collect()


@pytest.fixture
def directory(tmp_path):
    path = (tmp_path / "workspace").resolve()
    path.mkdir()
    return path


@pytest.fixture
def victim(directory, engine):
    victims = []

    def start():
        victims.append(Victim(directory))
        return victims[-1]

    yield start
    for each in victims:
        if each.process.returncode is None:
            each.kill()


def test_a_new_driver_adopts_the_jobs_of_a_killed_one(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(0, 1, 2), (3, "exit 33"))
    ended = make_attempt(directory, 3, "exit 33")
    wait_for(lambda: ledger(directory) == [0, 1, 2])
    wait_for(lambda: records.container(ended.record))
    dead.kill()
    driver = open_driver(directory)
    alive, never = attempts(directory, 0, 1, 2), make_attempt(directory, 4, "exit 0")
    wait_for(lambda: driver.find(ended)[ended.tag].state.terminal)
    found = driver.find(*alive, ended, never)
    assert found[ended.tag].result.exit_code == 33
    assert never.tag not in found
    assert {found[each.tag].state for each in alive} == {JobState.RUNNING}
    (directory / "gate").touch()
    assert [driver.end(each).exit_code for each in alive] == [0, 1, 2]
    assert all(sum(status.state.terminal for status in driver.watch.of(each)) == 1 for each in alive)
    assert ledger(directory) == [0, 1, 2]


def test_an_adopted_job_can_be_cancelled(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1))
    wait_for(lambda: ledger(directory) == [1])
    dead.kill()
    driver = open_driver(directory)
    (job,) = attempts(directory, 1)
    driver.cancel(job)  # without having looked for it
    assert driver.end(job).reason is Reason.CANCELLED


def test_the_wall_time_of_an_adopted_job_counts_from_its_start(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1))
    wait_for(lambda: ledger(directory) == [1])
    dead.kill()
    driver = open_driver(directory)
    job = make_attempt(directory, 1, GATED.format(1), resources=Resources(walltime_s=0.1))
    assert driver.find(job)[job.tag].state is JobState.RUNNING
    assert driver.end(job).reason is Reason.TIMEOUT


def test_a_container_that_was_made_and_not_started_never_is(directory, open_driver, engine):
    """Its driver was killed between the two, and the engine may have its call to start it yet."""
    driver = open_driver(directory)
    job = make_attempt(directory, 1, "echo 1 >> ledger")
    backend = driver.backend
    body = containers.configuration(
        job,
        image=backend._images.look("busybox:latest"),
        facts=engine.facts(),
        network=None,
        limit_cpus=False,
    )
    records.claim(job.record)
    made, remove = engine.create(job.tag, body), backend._engine.remove
    backend._engine.remove = lambda container: None if container == made else remove(container)
    assert not driver.find(job)[job.tag].state.terminal
    assert driver.end(job).reason is Reason.LOST
    engine.start(job.tag)
    wait_for(lambda: engine.inspect(job.tag)["State"]["Status"] == "exited")
    remove(job.tag)
    assert ledger(directory) == []


def test_what_a_killed_driver_left_recorded_is_swept(directory, open_driver, engine):
    driver = open_driver(directory)
    job = make_attempt(directory, 1, "exit 0")
    remove, driver.backend._engine.remove = driver.backend._engine.remove, lambda container: None
    driver.run(job)
    driver.end(job)
    driver.backend._engine.remove = remove
    assert engine.containers(f"drawbar.tag={job.tag}")
    driver.close()
    driver.open()
    wait_for(lambda: not engine.containers(f"drawbar.tag={job.tag}"))
    assert driver.find(job)[job.tag].result.ok


def test_two_drivers_see_the_same_end(victim, directory, open_driver):
    dead = victim()
    dead.submit(*jobs(1))
    wait_for(lambda: ledger(directory) == [1])
    dead.kill()
    (job,) = attempts(directory, 1)
    first, second = open_driver(directory), open_driver(directory)
    assert first.find(job)[job.tag].state is second.find(job)[job.tag].state is JobState.RUNNING
    (directory / "gate").touch()
    assert first.end(job) == second.end(job)


def test_a_container_that_somebody_removes_is_lost(directory, open_driver, engine):
    driver = open_driver(directory)
    (job,) = attempts(directory, 1)
    driver.run(job)
    wait_for(lambda: ledger(directory) == [1])
    engine.remove(job.tag)
    result = driver.end(job)
    assert result.reason in (Reason.LOST, Reason.KILLED)
    assert driver.find(job)[job.tag].result == result


@pytest.mark.docker  # Podman's containers outlive its service
def test_the_jobs_of_a_stopped_engine_are_told_as_such(directory, open_driver, script):
    driver = open_driver(directory)
    alive, done = attempts(directory, 1)[0], make_attempt(directory, 2, "exit 2")
    driver.run(alive, done)
    wait_for(lambda: ledger(directory) == [1] and runs(driver, alive))
    assert driver.end(done).exit_code == 2
    script("restart")
    assert driver.end(alive).reason is Reason.NODE_LOST
    again = make_attempt(directory, 1, "exit 5", tries=2)
    driver.run(again)
    assert driver.end(again).exit_code == 5
    assert driver.find(done)[done.tag].result.exit_code == 2
    assert ledger(directory) == [1]


@pytest.mark.docker
def test_the_jobs_of_a_killed_engine_are_told_as_such(directory, open_driver, script):
    driver = open_driver(directory)
    (job,) = attempts(directory, 1)
    driver.run(job)
    wait_for(lambda: ledger(directory) == [1] and runs(driver, job))
    script("crash")
    result = driver.end(job)
    assert result.reason is Reason.NODE_LOST
    assert ledger(directory) == [1]


def test_jobs_that_outlive_the_engine_are_watched_again(directory, open_driver, script, monkeypatch):
    monkeypatch.setenv("ENGINE_TEST_LIVE_RESTORE", "1")
    script("restart")
    try:
        driver = open_driver(directory)
        one, two = attempts(directory, 1, 2)
        driver.run(one, two)
        wait_for(lambda: ledger(directory) == [1, 2])
        script("stop")
        wait_for(lambda: driver.watch.troubles)
        late = make_attempt(directory, 3, "echo 3 >> ledger; exit 3")
        driver.submit(late)
        driver.cancel(two)
        script("restart")
        assert driver.end(two).reason is Reason.CANCELLED
        assert driver.end(late).exit_code == 3
        (directory / "gate").touch()
        assert driver.end(one).exit_code == 1
        assert ledger(directory) == [1, 2, 3]
        assert driver.watch.troubles[-1] == ""
    finally:
        monkeypatch.delenv("ENGINE_TEST_LIVE_RESTORE")
        script("restart")


SLOW_RUNTIME = """#!/bin/sh
# runc, whose `start` does not answer for as long as there is a file `hold`; with `hold.before` it has
# not even started then.
held() {{
  for word in "$@"; do
    if [ "$word" = start ]; then
      : >{hold}.reached
      while [ -e {hold} ]; do sleep 0.05; done
    fi
  done
}}
[ ! -e {hold}.before ] || held "$@"
runc "$@"
code=$?
[ -e {hold}.before ] || held "$@"
exit $code
"""


class Forgetful:
    """An engine that can be killed when a job has begun, and it has not noted that yet."""

    def __init__(self, script, hold: Path) -> None:
        self._script = script
        self._hold, self._before = hold, hold.with_name("hold.before")
        self.hold()

    def hold(self) -> None:
        """From now on it is not told that a container has started."""
        self._hold.touch()

    def hold_before(self) -> None:
        """From now on a container is made, and its start stays under way."""
        self._before.touch()

    def starts(self) -> bool:
        """Whether a start is held."""
        return self._hold.with_name("hold.reached").exists()

    def release(self) -> None:
        """Let everything go on."""
        self._hold.unlink(missing_ok=True)

    def die(self) -> None:
        """Kill it, and start it again; what was held goes on, unless it has not started yet."""
        pid = int(self._script("status").split()[1].rstrip(","))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        if not self._before.exists():
            self.release()
        self._script("start")


@pytest.fixture
def forgetful(script, host, tmp_path, monkeypatch):
    runtime, hold = tmp_path / "runtime", tmp_path / "hold"
    runtime.write_text(SLOW_RUNTIME.format(hold=hold))
    runtime.chmod(0o755)
    monkeypatch.setenv("ENGINE_TEST_RUNTIME", str(runtime))
    script("restart")
    yield Forgetful(script, hold)
    hold.unlink(missing_ok=True)
    monkeypatch.delenv("ENGINE_TEST_RUNTIME")
    script("restart")


def processes(container, *about):
    """Those alive whose files of these names in /proc tell of a container."""
    return [each for each in Path("/proc").glob("[0-9]*") if container in told(each, about)]


def end_processes(container):
    for process in processes(container, "cgroup", "cmdline"):
        with contextlib.suppress(ProcessLookupError):  # the first of them takes the others along
            os.kill(int(process.name), signal.SIGKILL)


def told(process, about):
    try:
        alive = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        podmans = (process / "comm").read_text().startswith(("conmon", "podman"))
        text = "".join((process / name).read_text(errors="replace") for name in about)
    except OSError:
        return ""
    return text if alive and ("cmdline" in about or not podmans) else ""


@pytest.mark.parametrize(
    "survivor", ["the same driver", "the next driver", pytest.param("no container", marks=pytest.mark.docker)]
)
def test_a_job_that_the_engine_has_forgotten_is_ended_and_repeated(
    forgetful, victim, directory, open_driver, engine, survivor
):
    """Also when somebody has removed its container before the next driver looks: that does not end it."""
    (job,) = attempts(directory, 1)
    if survivor == "the same driver":
        driver = open_driver(directory)
        driver.submit(job)
    else:
        dead = victim()
        dead.submit(*jobs(1))
    wait_for(lambda: ledger(directory) == [1])
    container = records.container(job.record)
    assert processes(container, "cgroup")
    if survivor != "the same driver":
        dead.kill()
    forgetful.die()
    assert engine.inspect(job.tag)["State"]["Status"] == "created"
    if survivor == "no container":
        engine.remove(job.tag)
        assert processes(container, "cgroup")
    if survivor != "the same driver":
        driver = open_driver(directory)
        assert not driver.find(job)[job.tag].state.terminal
    assert driver.end(job).reason is Reason.LOST
    assert not processes(container, "cgroup")
    if survivor == "no container":
        end_processes(container)  # what watched over it, of which the engine knows nothing any more
    wait_for(lambda: not processes(container, "cgroup", "cmdline"))
    (directory / "gate").touch()
    again = make_attempt(directory, 1, GATED.format(1), tries=2)
    driver.run(again)
    assert driver.end(again).exit_code == 1
    assert ledger(directory) == [1, 1]


@pytest.mark.docker
def test_a_start_that_outlives_its_engine_does_not_begin_a_lost_job(
    forgetful, directory, open_driver, engine
):
    """The engine is killed between making a container and starting it, and that start comes late."""
    driver = open_driver(directory)
    forgetful.hold_before()
    (job,) = attempts(directory, 1)
    driver.submit(job)
    wait_for(forgetful.starts)
    container = records.container(job.record)
    assert processes(container, "cgroup")  # the one that is to become the job
    forgetful.die()
    forgetful.release()
    assert driver.end(job).reason is Reason.LOST
    wait_for(lambda: not processes(container, "cgroup", "cmdline"))
    assert ledger(directory) == []


def test_a_forgotten_job_whose_death_cannot_be_had_says_what_to_do(
    forgetful, directory, open_driver, engine, monkeypatch
):
    driver = open_driver(directory)
    (job,) = attempts(directory, 1)
    driver.submit(job)
    wait_for(lambda: ledger(directory) == [1])
    container = records.container(job.record)
    with monkeypatch.context() as blind:
        blind.setattr(forgotten, "_LOOK", "exit 20")
        forgetful.die()
        result = driver.end(job)
    assert result.reason is Reason.HELD
    assert container[:12] in result.message
    assert "/proc/PID/cgroup" in result.message
    end_processes(container)
    wait_for(lambda: not processes(container, "cgroup", "cmdline"))


def test_a_storm_of_killed_drivers_loses_and_doubles_nothing(victim, directory, open_driver):
    """The ledger is the judge: it is written by the jobs."""
    storm = random.Random(7)
    numbers = range(24)
    work = {
        number: f"echo {number} >> ledger; sleep 0.{storm.randrange(4)}; exit {number}" for number in numbers
    }
    for first in range(0, len(numbers), 6):
        dead = victim()
        dead.submit(*[(number, work[number]) for number in numbers[first : first + 6]])
        time.sleep(storm.random())  # the instant of the kill; nothing is waited for
        dead.kill()
    driver = open_driver(directory)
    everything = [make_attempt(directory, number, work[number]) for number in numbers]
    driver.find(*everything)
    fence = make_attempt(directory, 99, "exit 0")
    driver.run(fence)  # what dead drivers asked the engine for is done by its end
    driver.end(fence)
    found = driver.find(*everything)
    results = {}
    for number, job in enumerate(everything):
        if job.tag in found:
            results[number] = found[job.tag].result or driver.end(job)
    again = {
        number: make_attempt(directory, number, work[number], tries=2)
        for number in numbers
        if number not in results or results[number].reason is Reason.LOST
    }
    driver.run(*again.values())
    results |= {number: driver.end(job) for number, job in again.items()}
    assert [results[number].exit_code for number in numbers] == list(numbers)
    assert ledger(directory) == list(numbers)
