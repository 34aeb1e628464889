"""The contract of a backend as tests, for its author to run.

    class TestMine(BackendContract):
        @pytest.fixture
        def backend(self, tmp_path):
            return lambda: MyBackend(MyBackend.Options())

The fixture gives a function that opens the backend: called again after `close`, it stands for drawbar
starting again. Checks of what a backend does not declare in `features` are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drawbar.backend import (
    API,
    Accepted,
    BackendFeature,
    Capacity,
    InDoubt,
    JobStatus,
    Refused,
)
from drawbar.errors import Problem
from drawbar.model import JobState, Reason, Resources
from drawbar.testing.driver import BackendFactory, Driver, expect
from drawbar.testing.job_checks import JobChecks


class BackendContract(JobChecks):
    """Derive from this, give the fixture `backend`, and run pytest."""

    patience_s: float = 60.0
    """How long a check waits for one event: more for a cluster with a queue."""
    walltime_s: float = 1.0
    """The wall time of the job that is to exceed it, where a backend has a coarser one."""
    memory_limit_mib: int = 64
    """The limit of the job that takes four times as much."""
    many: int = 100
    """How many jobs a large batch has."""
    image: str | None = None
    """The image of the jobs; it needs a POSIX shell and nothing else."""

    @pytest.fixture
    def backend(self) -> BackendFactory:
        """To be overridden: a function that opens the backend."""
        raise NotImplementedError("give a fixture `backend` that returns a function which makes the backend")

    @pytest.fixture
    def workspace(self, tmp_path: Path) -> Path:
        """A directory that jobs see at the same path; to be overridden where `tmp_path` is not shared."""
        return tmp_path / "workspace"

    @pytest.fixture
    def closed(self, backend: BackendFactory, workspace: Path) -> Iterator[Driver]:
        """A driver that has not started the backend."""
        workspace.mkdir(parents=True, exist_ok=True)
        driver = Driver(backend, workspace.resolve(), patience_s=self.patience_s, image=self.image)
        yield driver
        driver.clean_up()

    @pytest.fixture
    def driver(self, closed: Driver) -> Driver:
        """A driver with the backend started."""
        return closed.open()

    # What the class says of itself

    def test_the_class_declares_itself(self, closed: Driver) -> None:
        """Name, API version, features and options are what `drawbar backends` can use."""
        cls = type(closed.backend)
        expect(cls.api in range(1, API + 1), f"api is a version of the plugin API, at most {API}")
        expect(
            all(isinstance(each, BackendFeature) for each in cls.features),
            "features are members of BackendFeature",
        )
        for options in (cls.Options, cls.Hints):
            expect(
                all(each.help for each in options.declared()),
                "every option has a help text and a default",
                f"see {options.__qualname__}",
            )

    def test_check_leaves_no_trace(self, closed: Driver) -> None:
        """`check` answers with problems, twice the same, before `start`, and leaves nothing."""
        before = _listing(closed.directory)
        first = closed.call(closed.backend.check)
        second = closed.call(closed.backend.check)
        expect(
            all(isinstance(each, Problem) for each in first),
            "check gives problems, none when all is well",
            repr(first),
        )
        expect([*first] == [*second] and _listing(closed.directory) == before, "check has no side effects")
        expect(not first, "the backend that is tested can be used", "; ".join(map(str, first)))

    def test_capacity_is_a_bound_or_unknown(self, closed: Driver) -> None:
        """What `capacity` says is positive or None, before `start`."""
        capacity = closed.call(closed.backend.capacity)
        expect(isinstance(capacity, Capacity), "capacity gives a Capacity", repr(capacity))
        for value in (capacity.cpus, capacity.memory_mib, capacity.jobs):
            expect(value is None or value > 0, "a capacity is positive, or None for unknown", repr(capacity))

    # Batches

    def test_a_batch_is_answered_in_order(self, driver: Driver) -> None:
        """The answer to each attempt stands where the attempt stood."""
        attempts = [driver.gated(driver.directory / "gate", code) for code in range(5)]
        answers = driver.run(*attempts)
        found = driver.find(*attempts)
        (driver.directory / "gate").touch()
        for code, (attempt, answer) in enumerate(zip(attempts, answers, strict=True)):
            known = found[attempt.tag].native_id if attempt.tag in found else ""
            expect(
                not known or not answer.native_id or known == answer.native_id,
                "submit gives one answer per attempt, in order",
                f"attempt {code} was answered with native id {answer.native_id}, and found as {known}",
            )
            driver.end(attempt)

    def test_many_jobs_and_none_lost_or_doubled(self, driver: Driver) -> None:
        """Each job of a large batch runs once and ends once, with its own code."""
        ledger = driver.directory / "ledger"
        attempts = [
            driver.shell('echo "$2" >> "$1"; exit "$3"', str(ledger), str(index), str(index % 3))
            for index in range(self.many)
        ]
        driver.run(*attempts)
        codes = [driver.end(attempt).exit_code for attempt in attempts]
        expect(
            codes == [index % 3 for index in range(self.many)], "no result goes to another job", repr(codes)
        )
        lines = sorted(map(int, ledger.read_text().split()))
        expect(lines == list(range(self.many)), "every accepted job runs exactly once", f"ran: {lines}")

    def test_an_empty_batch_is_nothing(self, driver: Driver) -> None:
        """Every method takes an empty batch."""
        driver.submit()
        expect(not driver.find(), "find of nothing finds nothing")
        driver.cancel()
        driver.call(driver.backend.forget, ())

    # Tags

    def test_a_known_tag_starts_nothing(self, driver: Driver) -> None:
        """Submitting a tag again, while it runs and after its end, is accepted and runs nothing."""
        sentence = "a tag that is known already is accepted again and starts nothing"
        gate = driver.directory / "gate"
        attempt = driver.gated(gate)
        driver.run(attempt)
        ledger = _ledger(gate)
        driver.wait_for(ledger.exists, "an accepted job starts")
        again = driver.submit(attempt)
        expect(isinstance(again[0], Accepted), sentence, f"while it ran, the answer was {again[0]}")
        gate.touch()
        driver.end(attempt)
        again = driver.submit(attempt)
        expect(isinstance(again[0], Accepted), sentence, f"after its end, the answer was {again[0]}")
        self._settle(driver)
        lines = ledger.read_text().splitlines()
        expect(len(lines) == 1, sentence, f"it ran {len(lines)} times")

    def test_find_tells_the_truth(self, driver: Driver) -> None:
        """In one query: alive is alive, ended has its result, and what never was is missing."""
        gate = driver.directory / "gate"
        alive, ended, never = driver.gated(gate), driver.shell("exit 7"), driver.shell("exit 0")
        driver.run(alive, ended)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.end(ended)
        found = driver.find(alive, ended, never)
        expect(
            alive.tag in found and not found[alive.tag].state.terminal,
            "find knows a job that is alive",
            repr(found.get(alive.tag)),
        )
        status = found.get(ended.tag)
        expect(
            status is not None and status.result is not None and status.result.exit_code == 7,
            "find knows a job that ended, with its true result, until it is forgotten",
            repr(status),
        )
        expect(never.tag not in found, "a tag that was never submitted is missing in the answer", repr(found))
        gate.touch()
        driver.end(alive)

    def test_what_is_refused_is_not_there(self, driver: Driver) -> None:
        """A job that cannot be run is refused with a reason that one can read, and never starts."""
        ledger = driver.directory / "ledger"
        attempt = driver.shell('echo ran >> "$1"', str(ledger), resources=Resources(cpus=1_000_000))
        verdict = driver.call(driver.backend.refuses, attempt.spec)
        expect(
            verdict is None or (isinstance(verdict, str) and verdict.strip()),
            "refuses gives a sentence that says why, or None",
            repr(verdict),
        )
        if verdict is not None:
            return  # such a job is never submitted
        (answer,) = driver.submit(attempt)
        if not isinstance(answer, Refused):
            return  # it waits for a place that may yet exist
        expect(answer.message.strip(), "a refusal says why", repr(answer))
        expect(attempt.tag not in driver.find(attempt), "a job that was refused does not exist")
        self._settle(driver)
        expect(
            not ledger.exists() and not driver.watch.of(attempt),
            "a job that was refused does not exist, and no events come",
            f"told: {driver.watch.of(attempt)}",
        )

    def test_forget_harms_nothing(self, driver: Driver) -> None:
        """What is forgotten, or was never known, does not disturb the jobs that are alive."""
        gate = driver.directory / "gate"
        alive, ended, never = driver.gated(gate, 5), driver.shell("exit 0"), driver.shell("exit 0")
        driver.run(alive, ended)
        driver.end(ended)
        for _ in range(2):
            driver.call(driver.backend.forget, (ended, never))
        expect(alive.tag in driver.find(alive), "forget concerns only the attempts that it names")
        gate.touch()
        expect(
            driver.end(alive).exit_code == 5,
            "forget concerns only the attempts that it names",
            repr(driver.end(alive)),
        )

    # Cancelling

    def test_cancel_ends_a_job(self, driver: Driver) -> None:
        """A job that is asked to stop, twice, ends as cancelled, even when it ignores SIGTERM."""
        gate = driver.directory / "gate"
        attempt = driver.shell(
            'trap "" TERM INT HUP; echo started >> "$1.ledger"; while [ ! -e "$1" ]; do sleep 0.05; done',
            str(gate),
        )
        driver.run(attempt)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.cancel(attempt)
        driver.cancel(attempt)
        status = driver.watch.end(attempt, self.patience_s)
        gate.touch()
        expect(
            status is not None and status.state is JobState.CANCELLED,
            "a job that is asked to stop ends with the reason cancelled",
            f"not told within {self.patience_s} s" if status is None else repr(status.result),
        )

    def test_a_cancelled_job_is_dead(self, driver: Driver) -> None:
        """When the end is told, the command and what it started no longer write."""
        gate, beats = driver.directory / "gate", driver.directory / "beats"
        beat = 'while [ ! -e "$1" ]; do echo >> "$2"; sleep 0.02; done'
        attempt = driver.shell(f"({beat}) & {beat}; wait", str(gate), str(beats))
        driver.run(attempt)
        driver.wait_for(beats.exists, "an accepted job starts")
        driver.cancel(attempt)
        driver.end(attempt)
        before = beats.stat().st_size
        self._settle(driver, "sleep 0.3")
        after = beats.stat().st_size
        gate.touch()
        expect(before == after, "a job that ended as cancelled is dead, with all that it started")

    def test_cancel_ignores_what_is_not_alive(self, driver: Driver) -> None:
        """Ended and unknown attempts are ignored; the result of an ended one stays."""
        ended, never = driver.shell("exit 3"), driver.shell("exit 0")
        driver.run(ended)
        driver.end(ended)
        driver.cancel(ended, never)
        self._settle(driver)
        results = [status.result for status in driver.watch.of(ended) if status.result]
        status = driver.find(ended).get(ended.tag)
        if status is not None and status.result is not None:
            results.append(status.result)
        expect(
            all(result.exit_code == 3 for result in results),
            "cancel ignores attempts that have ended",
            repr(results),
        )
        expect(never.tag not in driver.find(never), "cancel ignores attempts that are unknown")

    def test_a_job_may_be_cancelled_at_once(self, driver: Driver) -> None:
        """Wherever the job is by then, it ends, and its end is cancelled or its own."""
        attempts = [driver.gated(driver.directory / "gate") for _ in range(5)]
        driver.run(*attempts)
        driver.cancel(*attempts)
        for attempt in attempts:
            result = driver.end(attempt)
            expect(
                result.reason is Reason.CANCELLED,
                "a job that is cancelled ends with the reason cancelled, started or not",
                repr(result),
            )

    # Limits

    def test_walltime_is_enforced(self, driver: Driver) -> None:
        """A job above its wall time ends as a timeout."""
        self._needs(driver, BackendFeature.WALLTIME)
        gate = driver.directory / "gate"
        attempt = driver.gated(gate, resources=Resources(walltime_s=self.walltime_s))
        driver.run(attempt)
        status = driver.watch.end(attempt, self.patience_s + self.walltime_s)
        gate.touch()
        expect(
            status is not None and status.result is not None and status.result.reason is Reason.TIMEOUT,
            "a job above its wall time ends with the reason timeout",
            f"not told in time: {driver.watch.of(attempt)}" if status is None else repr(status.result),
        )

    def test_the_memory_limit_is_enforced(self, driver: Driver) -> None:
        """A job above its memory limit ends as out-of-memory; the memory may be a child's."""
        self._needs(driver, BackendFeature.MEMORY_LIMIT)
        bytes_taken = 4 * self.memory_limit_mib * 1024 * 1024
        attempt = driver.shell(
            '(head -c "$1" /dev/zero; sleep 5) | tail > /dev/null',
            str(bytes_taken),
            resources=Resources(memory_mib=self.memory_limit_mib, memory_limit_mib=self.memory_limit_mib),
        )
        driver.run(attempt)
        result = driver.end(attempt)
        expect(
            result.reason is Reason.OUT_OF_MEMORY,
            "a job above its memory limit ends with the reason out-of-memory",
            repr(result),
        )

    # Threads, and drawbar coming and going

    def test_calls_may_come_from_several_threads(self, driver: Driver) -> None:
        """Submitting goes on while jobs that were submitted before are looked up and cancelled."""
        batches = [[driver.shell("exit 0") for _ in range(4)] for _ in range(5)]
        doomed = [driver.gated(driver.directory / "gate") for _ in range(8)]
        everything = [*doomed, *(each for batch in batches for each in batch)]
        failures: list[BaseException] = []

        def submit() -> None:
            for batch in batches:
                driver.run(*batch)

        def find_and_cancel() -> None:
            for attempt in doomed:
                driver.find(*doomed)
                driver.cancel(attempt)

        def guarded(work: Any) -> None:
            try:
                work()
            except BaseException as error:  # told below, by the thread of the test
                failures.append(error)

        driver.run(*doomed)
        threads = [threading.Thread(target=guarded, args=(work,)) for work in (submit, find_and_cancel)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(not failures, "methods are called from several threads at once", "; ".join(map(str, failures)))
        for attempt in everything:
            driver.end(attempt)

    def test_jobs_survive_close(self, driver: Driver) -> None:
        """`close` stops watching; the job goes on."""
        self._needs(driver, BackendFeature.SURVIVES_DRIVER)
        gate, made = driver.directory / "gate", driver.directory / "made"
        attempt = driver.shell(
            'echo > "$1.ledger"; while [ ! -e "$1" ]; do sleep 0.05; done; : > "$2"', str(gate), str(made)
        )
        driver.run(attempt)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.close()
        gate.touch()
        driver.wait_for(made.exists, "jobs stay alive when the backend is closed")

    def test_a_restart_finds_live_jobs(self, driver: Driver) -> None:
        """A new object finds a job that is alive, by tag, and tells of its end with the true code."""
        self._needs(driver, BackendFeature.SURVIVES_DRIVER)
        gate = driver.directory / "gate"
        attempt = driver.gated(gate, 9)
        driver.run(attempt)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.close()
        driver.open()
        status = driver.find(attempt).get(attempt.tag)
        expect(
            status is not None and not status.state.terminal,
            "after a restart find knows a job that is alive",
            repr(status),
        )
        gate.touch()
        result = driver.end(attempt)
        expect(
            result.exit_code == 9, "events of jobs found alive come, with the true exit code", repr(result)
        )

    def test_a_restart_finds_ended_jobs(self, driver: Driver) -> None:
        """A job that ended while nobody watched is found with its true exit code."""
        self._needs(driver, BackendFeature.SURVIVES_DRIVER)
        gate = driver.directory / "gate"
        attempt = driver.gated(gate, 11)
        driver.run(attempt)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.close()
        gate.touch()
        driver.open()
        found: dict[str, JobStatus] = {}

        def ended() -> bool:
            found.update(driver.find(attempt))
            return attempt.tag not in found or found[attempt.tag].state.terminal

        driver.wait_for(ended, "find knows the end of a job that ended while nobody watched")
        status = found.get(attempt.tag)
        expect(
            status is not None and status.result is not None and status.result.exit_code == 11,
            "a job that ended while nobody watched has its true exit code",
            repr(status),
        )

    def test_a_tag_is_known_after_a_restart(self, driver: Driver) -> None:
        """What was submitted before a crash is not started again by a submit after it."""
        self._needs(driver, BackendFeature.SURVIVES_DRIVER)
        sentence = "a tag that is known already is accepted again and starts nothing, also after a restart"
        gate = driver.directory / "gate"
        attempt = driver.gated(gate)
        driver.run(attempt)
        driver.wait_for(_ledger(gate).exists, "an accepted job starts")
        driver.close()
        driver.open()
        (again,) = driver.submit(attempt)
        expect(isinstance(again, Accepted | InDoubt), sentence, f"the answer was {again}")
        gate.touch()
        driver.end(attempt)
        self._settle(driver)
        lines = _ledger(gate).read_text().splitlines()
        expect(len(lines) == 1, sentence, f"it ran {len(lines)} times")

    # Helpers

    def _needs(self, driver: Driver, feature: BackendFeature) -> None:
        if feature not in driver.backend.features:
            pytest.skip(f"the backend does not declare {feature}")

    def _settle(self, driver: Driver, script: str = "exit 0") -> None:
        """Run one more job to its end: what was set off before it has had its time."""
        fence = driver.shell(script)
        driver.run(fence)
        driver.end(fence)


def _ledger(gate: Path) -> Path:
    return gate.with_name(f"{gate.name}.ledger")


def _listing(directory: Path) -> list[str]:
    return sorted(str(path) for path in directory.rglob("*"))
