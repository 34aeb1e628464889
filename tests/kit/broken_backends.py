"""A right backend in memory, and one wrong backend for each sentence of the contract.

The farm stands for a cluster: it outlives the backend objects that look at it. pytest collects this
file only when `test_backend_kit` names it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from drawbar.backend import (
    Accepted,
    Attempt,
    Backend,
    BackendFeature,
    Capacity,
    EventSink,
    JobStatus,
    Refused,
    Submission,
)
from drawbar.errors import Problem
from drawbar.model import JobResult, JobState, Reason, judge
from drawbar.options import Options
from drawbar.testing import BackendContract


class Farm:
    """Runs attempts as processes of this machine and remembers them."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.lock = threading.RLock()
        self.statuses: dict[str, JobStatus] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.reasons: dict[str, Reason] = {}
        self.tell: Callable[[JobStatus], None] = lambda status: None

    def set(self, status: JobStatus) -> None:
        with self.lock:
            self.statuses[status.tag] = status
            self.tell(status)

    def start(self, attempt: Attempt) -> None:
        with self.lock:
            native_id = str(len(self.statuses) + 1)
            self.set(JobStatus(tag=attempt.tag, state=JobState.SUBMITTED, native_id=native_id))
        threading.Thread(target=self._run, args=(attempt, native_id), daemon=True).start()

    def end(self, tag: str, reason: Reason) -> None:
        """End a job's processes for a reason."""
        with self.lock:
            if tag in self.statuses and not self.statuses[tag].state.terminal:
                self.reasons[tag] = reason
                if tag in self.processes:
                    _kill(self.processes[tag])

    def empty(self) -> None:
        with self.lock:
            processes = list(self.processes.values())
        for process in processes:
            _kill(process)
            process.wait()

    def _run(self, attempt: Attempt, native_id: str) -> None:
        spec, tag, started = attempt.spec, attempt.tag, time.time()
        with contextlib.ExitStack() as files:
            source = files.enter_context(Path(spec.stdin or os.devnull).open("rb"))
            out = files.enter_context(Path(spec.stdout or os.devnull).open("wb"))
            err = files.enter_context(Path(spec.stderr or os.devnull).open("wb"))
            with self.lock:
                if tag in self.reasons:
                    self.set(_ended(tag, native_id, JobResult(reason=self.reasons[tag])))
                    return
                try:
                    process = subprocess.Popen(
                        spec.argv,
                        cwd=spec.directory,
                        env={"PATH": os.defpath, **spec.environment},
                        stdin=source,
                        stdout=out,
                        stderr=err,
                        start_new_session=True,
                    )
                except OSError as error:
                    result = JobResult(exit_code=127, reason=Reason.EXIT_CODE, message=str(error))
                    self.set(_ended(tag, native_id, result))
                    return
                self.processes[tag] = process
                self.set(JobStatus(tag=tag, state=JobState.RUNNING, native_id=native_id))
        try:
            code = process.wait(spec.resources.walltime_s)
        except subprocess.TimeoutExpired:
            self.end(tag, Reason.TIMEOUT)
            code = process.wait()
        reason = self.reasons.get(tag) or (Reason.KILLED if code < 0 else judge(spec, code))
        result = JobResult(
            exit_code=code if code >= 0 else None, reason=reason, started=started, finished=time.time()
        )
        self.set(_ended(tag, native_id, result))


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ended(tag: str, native_id: str, result: JobResult) -> JobStatus:
    return JobStatus(tag=tag, state=result.state, native_id=native_id, result=result)


class FarmBackend(Backend):
    name = "farm"
    api = 1
    features = frozenset({BackendFeature.WALLTIME, BackendFeature.SURVIVES_DRIVER})

    def __init__(self, farm: Farm) -> None:
        super().__init__(Options())
        self.farm = farm

    def start(self, events: EventSink) -> None:
        self.events = events
        self.farm.tell = self.tell

    def tell(self, status: JobStatus) -> None:
        self.events.status([status])

    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        return [self.submit_one(attempt) for attempt in attempts]

    def submit_one(self, attempt: Attempt) -> Submission:
        if attempt.spec.resources.cpus > 1000:
            return Refused(message="no machine here has so many cores")
        with self.farm.lock:
            if attempt.tag not in self.farm.statuses:
                self.farm.start(attempt)
            return Accepted(native_id=self.farm.statuses[attempt.tag].native_id)

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        with self.farm.lock:
            statuses = self.farm.statuses
            return {each.tag: statuses[each.tag] for each in attempts if each.tag in statuses}

    def cancel(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            self.farm.end(attempt.tag, Reason.CANCELLED)

    def close(self) -> None:
        self.farm.tell = lambda status: None


def _with_spec(attempt: Attempt, **changes: object) -> Attempt:
    return replace(attempt, spec=replace(attempt.spec, **changes))


class NeverEnds(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        if not status.state.terminal:
            super().tell(status)


class LiesAboutTheExitCode(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        result = status.result
        if result is not None and result.exit_code == 64:
            result = JobResult(exit_code=1, reason=Reason.EXIT_CODE)
            status = _ended(status.tag, status.native_id, result)
        super().tell(status)


class KnowsOnlyZero(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        return super().submit_one(_with_spec(attempt, success_codes=(0,), temporary_codes=()))


class GuessesOutOfMemory(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        if status.result is not None and status.result.reason is Reason.KILLED:
            status = _ended(status.tag, status.native_id, JobResult(reason=Reason.OUT_OF_MEMORY))
        super().tell(status)


class BlamesTheMachine(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        if status.result is not None and "No such file" in status.result.message:
            status = _ended(status.tag, status.native_id, JobResult(reason=Reason.NODE_LOST))
        super().tell(status)


class SubmitsTwice(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        if attempt.tag in self.farm.statuses:
            self.start_a_copy(attempt)
        return super().submit_one(attempt)

    def start_a_copy(self, attempt: Attempt) -> None:
        """A second copy, until it has written its line; nothing is told of it."""
        ledger = Path(f"{attempt.spec.argv[4]}.ledger")
        size = ledger.stat().st_size
        process = subprocess.Popen(attempt.spec.argv, stdin=subprocess.DEVNULL, start_new_session=True)
        self.farm.processes[f"copy {process.pid}"] = process
        while ledger.stat().st_size == size and process.poll() is None:
            time.sleep(0.01)


class GoesBack(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        super().tell(status)
        if status.state is JobState.RUNNING:
            super().tell(JobStatus(tag=status.tag, state=JobState.SUBMITTED))


class EndsTwice(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        super().tell(status)
        if status.state is JobState.FINISHED:
            super().tell(_ended(status.tag, status.native_id, JobResult(reason=Reason.LOST)))


class TellsOfStrangers(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        super().tell(status)
        super().tell(JobStatus(tag="somebody-elses", state=JobState.RUNNING))


class AnswersOutOfOrder(FarmBackend):
    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        return list(reversed(super().submit(attempts)))


class LosesOneOfMany(FarmBackend):
    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        return [*super().submit(attempts[:64]), *(Accepted() for _ in attempts[64:])]


class StumblesOverAnEmptyBatch(FarmBackend):
    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        _ = attempts[0]
        return super().find(attempts)


class LosesJobsOnRestart(FarmBackend):
    def __init__(self, farm: Farm) -> None:
        super().__init__(farm)
        self.old = set(farm.statuses)

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        return super().find([each for each in attempts if each.tag not in self.old])


class GuessesTheCodeAfterRestart(FarmBackend):
    def __init__(self, farm: Farm) -> None:
        super().__init__(farm)
        self.old = set(farm.statuses)

    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        return {
            tag: _ended(tag, "", JobResult(exit_code=0))
            if tag in self.old and status.state.terminal
            else status
            for tag, status in super().find(attempts).items()
        }


class StartsKnownJobsAfterRestart(SubmitsTwice):
    def __init__(self, farm: Farm) -> None:
        super().__init__(farm)
        self.old = set(farm.statuses)

    def start_a_copy(self, attempt: Attempt) -> None:
        if attempt.tag in self.old:
            super().start_a_copy(attempt)


class KillsOnClose(FarmBackend):
    def close(self) -> None:
        super().close()
        self.farm.empty()


class ForgetsTheEnvironment(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        return super().submit_one(_with_spec(attempt, environment={}))


class StripsVariables(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        variables = {name: text.strip() for name, text in attempt.spec.environment.items()}
        return super().submit_one(_with_spec(attempt, environment=variables))


class JoinsArguments(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        argv = attempt.spec.argv
        return super().submit_one(_with_spec(attempt, argv=(*argv[:4], *" ".join(argv[4:]).split())))


class IgnoresTheDirectory(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        return super().submit_one(_with_spec(attempt, directory=attempt.workspace))


class IgnoresStreams(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        return super().submit_one(_with_spec(attempt, stdin=None, stderr=None))


class LeavesStandardInputOpen(FarmBackend):
    def start(self, events: EventSink) -> None:
        super().start(events)
        self.pipe = os.pipe()

    def submit_one(self, attempt: Attempt) -> Submission:
        return super().submit_one(_with_spec(attempt, stdin=attempt.spec.stdin or f"/dev/fd/{self.pipe[0]}"))

    def close(self) -> None:
        super().close()
        for end in self.pipe:
            os.close(end)


class InventsJobs(FarmBackend):
    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        unknown = {each.tag: JobStatus(tag=each.tag, state=JobState.SUBMITTED) for each in attempts[-1:]}
        return {**(unknown if len(attempts) > 1 else {}), **super().find(attempts)}


class ForgetsTheEnded(FarmBackend):
    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        return {
            tag: status
            for tag, status in super().find(attempts).items()
            if status.state is not JobState.FAILED
        }


class RefusesAndRuns(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        answer = super().submit_one(attempt)
        if isinstance(answer, Refused):
            self.farm.start(attempt)
        return answer


class RefusesWithoutAWord(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        answer = super().submit_one(attempt)
        return Refused(message="") if isinstance(answer, Refused) else answer


class ForgetsEverything(FarmBackend):
    def forget(self, attempts: Sequence[Attempt]) -> None:
        if attempts:
            self.farm.statuses.clear()


class SwallowsCancel(FarmBackend):
    def cancel(self, attempts: Sequence[Attempt]) -> None:
        pass


class SaysCancelledAndLetsRun(FarmBackend):
    def cancel(self, attempts: Sequence[Attempt]) -> None:
        with self.farm.lock:
            for attempt in attempts:
                status = self.farm.statuses.get(attempt.tag)
                if status is not None and not status.state.terminal:
                    self.farm.reasons[attempt.tag] = Reason.CANCELLED
                    self.farm.set(_ended(attempt.tag, "", JobResult(reason=Reason.CANCELLED)))


class CancelsTheEnded(FarmBackend):
    def cancel(self, attempts: Sequence[Attempt]) -> None:
        super().cancel(attempts)
        for attempt in attempts:
            if attempt.tag in self.farm.statuses and attempt.tag not in self.farm.reasons:
                self.tell(_ended(attempt.tag, "", JobResult(reason=Reason.CANCELLED)))


class CancelsOnlyTheRunning(FarmBackend):
    def cancel(self, attempts: Sequence[Attempt]) -> None:
        if len(attempts) == 1:
            super().cancel(attempts)


class IgnoresTheWalltime(FarmBackend):
    def submit_one(self, attempt: Attempt) -> Submission:
        resources = replace(attempt.spec.resources, walltime_s=None)
        return super().submit_one(_with_spec(attempt, resources=resources))


class OneThreadAtATime(FarmBackend):
    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        if len(attempts) == 8:  # stands for a race: only the check with threads asks for so many
            raise RuntimeError("find was called during a submit")
        return super().find(attempts)


class CheckLeavesFiles(FarmBackend):
    def check(self) -> Sequence[Problem]:
        (self.farm.workspace / "probe").touch()
        return ()


class SpeaksAnotherApi(FarmBackend):
    api = 99


class NegativeCapacity(FarmBackend):
    def capacity(self) -> Capacity:
        return Capacity(cpus=-1)


class EndsBeforeItStarts(FarmBackend):
    def tell(self, status: JobStatus) -> None:
        if status.result is not None and status.result.ok:
            result = replace(status.result, started=2e9, finished=1.9e9)
            status = _ended(status.tag, status.native_id, result)
        super().tell(status)


class Hangs(FarmBackend):
    deadline_s = 0.5

    def check(self) -> Sequence[Problem]:
        threading.Event().wait(5)
        return ()


WRONG: Mapping[type[FarmBackend], str] = {
    NeverEnds: "test_every_job_ends",
    LiesAboutTheExitCode: "test_exit_codes_are_true",
    KnowsOnlyZero: "test_success_and_temporary_codes_are_the_jobs_own test_zero_need_not_be_a_success",
    GuessesOutOfMemory: "test_a_killed_job_is_told_without_guessing",
    BlamesTheMachine: "test_a_command_that_is_not_there_fails",
    SubmitsTwice: "test_a_known_tag_starts_nothing test_a_tag_is_known_after_a_restart",
    GoesBack: "test_states_never_go_back",
    EndsTwice: "test_a_job_ends_once",
    TellsOfStrangers: "test_only_known_jobs_are_told_of",
    AnswersOutOfOrder: "test_a_batch_is_answered_in_order",
    LosesOneOfMany: "test_many_jobs_and_none_lost_or_doubled",
    StumblesOverAnEmptyBatch: "test_an_empty_batch_is_nothing",
    LosesJobsOnRestart: "test_a_restart_finds_live_jobs test_a_restart_finds_ended_jobs",
    GuessesTheCodeAfterRestart: "test_a_restart_finds_ended_jobs",
    StartsKnownJobsAfterRestart: "test_a_tag_is_known_after_a_restart",
    KillsOnClose: "test_jobs_survive_close test_a_restart_finds_live_jobs test_a_restart_finds_ended_jobs"
    " test_a_tag_is_known_after_a_restart",
    ForgetsTheEnvironment: "test_environment_arrives_byte_for_byte",
    StripsVariables: "test_environment_arrives_byte_for_byte",
    JoinsArguments: "test_arguments_arrive_byte_for_byte",
    IgnoresTheDirectory: "test_the_job_runs_in_its_directory",
    IgnoresStreams: "test_standard_streams_are_files",
    LeavesStandardInputOpen: "test_without_a_file_standard_input_is_empty",
    InventsJobs: "test_find_tells_the_truth",
    ForgetsTheEnded: "test_find_tells_the_truth test_a_restart_finds_ended_jobs",
    RefusesAndRuns: "test_what_is_refused_is_not_there",
    RefusesWithoutAWord: "test_what_is_refused_is_not_there",
    ForgetsEverything: "test_forget_harms_nothing",
    SwallowsCancel: "test_cancel_ends_a_job test_a_cancelled_job_is_dead test_a_job_may_be_cancelled_at_once"
    " test_calls_may_come_from_several_threads",
    SaysCancelledAndLetsRun: "test_a_cancelled_job_is_dead",
    CancelsTheEnded: "test_cancel_ignores_what_is_not_alive",
    CancelsOnlyTheRunning: "test_a_job_may_be_cancelled_at_once",
    IgnoresTheWalltime: "test_walltime_is_enforced",
    OneThreadAtATime: "test_calls_may_come_from_several_threads",
    SpeaksAnotherApi: "test_the_class_declares_itself",
    CheckLeavesFiles: "test_check_leaves_no_trace",
    NegativeCapacity: "test_capacity_is_a_bound_or_unknown",
    EndsBeforeItStarts: "test_a_job_runs_and_its_result_is_whole",
    Hangs: "test_check_leaves_no_trace",
}
"""Each wrong backend with the checks that it must fail: all of these, and no other."""


class Kit(BackendContract):
    """The contract for a backend of this file: `make` is the class under test."""

    make: type[FarmBackend]
    patience_s = float(os.environ.get("KIT_PATIENCE_S", "10"))
    walltime_s = 0.3

    @pytest.fixture
    def backend(self, workspace):
        farm = Farm(workspace)
        yield lambda: self.make(farm)
        farm.empty()


class TestRight(Kit):
    make = FarmBackend
    patience_s = 30.0


for _wrong in WRONG:
    _name = f"Test{_wrong.__name__}"
    globals()[_name] = type(_name, (Kit,), {"make": _wrong, "__module__": __name__})
