"""The dispatcher between an engine that is played here and a backend that does what a test says."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections import deque
from types import SimpleNamespace

import pytest
from drawbar import hookimpl
from drawbar.backend import API, Accepted, Backend, Capacity, InDoubt, JobStatus, Refused
from drawbar.codec import dumps
from drawbar.dispatcher import Dispatcher
from drawbar.errors import BackendError, InfrastructureError
from drawbar.home import Home
from drawbar.identity import digest
from drawbar.model import JobResult, JobSpec, JobState, Reason, Resources, RetryPolicy
from drawbar.placement import Placer
from drawbar.plugins import Plugins
from drawbar.settings import load_settings
from drawbar.store import AttemptRow, Store

PATIENCE_S = 20.0
OK = JobResult(exit_code=0)


class Fake(Backend):
    """Answers with what `on_submit` and `on_find` say, and keeps what it was asked."""

    name = "fake"
    api = API
    grace_s = 0.0
    deadline_s = 10.0
    size = Capacity()
    on_submit = staticmethod(lambda attempts: [Accepted(native_id=f"n-{each.number}") for each in attempts])
    on_find = staticmethod(lambda attempts: {})
    on_cancel = staticmethod(lambda attempts: None)
    made: list[Fake]

    def __init__(self, options):
        super().__init__(options)
        self.submitted, self.found, self.cancelled, self.forgotten = [], [], [], []
        self.made.append(self)

    def capacity(self):
        return self.size

    def start(self, events):
        self.events = events

    def submit(self, attempts):
        self.submitted += attempts
        return self.on_submit(attempts)

    def find(self, attempts):
        self.found.append([each.tag for each in attempts])
        return self.on_find(attempts)

    def cancel(self, attempts):
        self.cancelled += [each.tag for each in attempts]
        self.on_cancel(attempts)

    def forget(self, attempts):
        self.forgotten += [each.tag for each in attempts]

    def tell(self, tag, state=JobState.RUNNING, **fields):
        self.events.status([JobStatus(tag=tag, state=state, **fields)])

    def end(self, tag, result=OK):
        self.tell(tag, result.state, result=result)


class Rig:
    """A dispatcher with its rounds, as a drive has them; `sent` is what the engine is told."""

    def __init__(self, directory, kind, settings) -> None:
        self.kind = kind
        self.plugins = Plugins()
        self.plugins.register(_plugin(kind), "fake")
        self.settings = settings
        self.directory = directory
        self.sent: list = []
        self.events: list = []
        self.posted: deque = deque()
        self.woken = threading.Event()
        self.store = Store(directory.store)
        self.store.acquire()
        self.store.add_run(directory.id)
        self.dispatcher = Dispatcher(
            directory,
            str(directory.path / "workspace"),
            1.5,
            self.store,
            Placer(settings, self.plugins),
            settings,
            post=self._post,
            send=self.sent.append,
            observe=self.events.append,
        )
        self.dispatcher.recover()

    @property
    def backend(self) -> Fake:
        return self.kind.made[-1]

    def _post(self, work) -> None:
        self.posted.append(work)
        self.woken.set()

    def round(self) -> None:
        self.woken.clear()
        while self.posted:
            self.posted.popleft()()
        self.dispatcher.dispatch()
        self.store.commit()
        self.dispatcher.committed()
        effects, self.dispatcher.effects = self.dispatcher.effects, []
        for effect in effects:
            effect()

    def until(self, condition):
        """Go round until a condition holds; its value."""
        give_up = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < give_up, (self.sent, [row.state for row in self.attempts()])
            self.round()
            wait = self.dispatcher.wait_s()
            if not condition():
                self.woken.wait(0.02 if wait is None else min(wait, 0.02))
        return value

    def submit(self, *specs):
        self.dispatcher.submit(
            [
                {"key": key(spec), "document": dumps({"canonical": spec.canonical}), "spec": dumps(spec)}
                for spec in specs
            ]
        )

    def start(self, *specs):
        """Submit jobs and wait until the backend has been given them; their tags."""
        before = len(self.kind.made and self.backend.submitted)
        self.submit(*specs)
        self.until(lambda: self.kind.made and len(self.backend.submitted) == before + len(specs))
        self.until(lambda: not self.posted)
        return [each.tag for each in self.backend.submitted[before:]]

    def attempts(self):
        """All that are durable."""
        return self.store.attempts(self.directory.id)

    def told(self, kind):
        return [message[1:] for message in self.sent if message[0] == kind]

    def result(self, identity="a"):
        """The result that the engine was given for a job."""
        _, _, value, _ = self.until(
            lambda: next(iter(e for e in self.told("executed") if e[0] == identity), None)
        )
        return SimpleNamespace(**{"reason": None, "message": "", **value})

    def prepared(self, times=1):
        """Play the engine that prepares a job again when it is told to."""
        self.until(lambda: len(self.told("prepare")) == times)
        identity, number = self.told("prepare")[-1]
        before = len(self.backend.submitted)
        self.dispatcher.again((identity, number))
        self.until(lambda: len(self.backend.submitted) > before)
        return self.backend.submitted[-1].tag

    def look(self, *specs):
        before = len(self.told("found"))
        self.dispatcher.lookup([(spec.identity, spec.try_number, key(spec)) for spec in specs])
        self.until(lambda: len(self.told("found")) > before)
        return [each["found"] for each in self.told("found")[-1][0]]

    def close(self) -> None:
        self.dispatcher.close()
        self.store.release()
        self.store.close()


def _plugin(kind):
    @hookimpl
    def drawbar_register_backends():
        return [kind]

    return SimpleNamespace(drawbar_register_backends=drawbar_register_backends)


def key(spec) -> str:
    return digest([spec.canonical])


def job(identity="a", **fields):
    fields = {"canonical": identity, "directory": "/", "argv": ("true",), **fields}
    return JobSpec(identity=identity, name=identity, step=identity.partition("/")[0], **fields)


@pytest.fixture
def rigs(tmp_path):
    """Makes rigs over one run, one after another, as restarts of the driver do."""
    made = []
    home = Home(tmp_path / "home")
    directory = home.create("r")

    def make(overrides=None, **attributes):
        if made:
            made[-1].close()
        kind = type(
            "ThisFake",
            (Fake,),
            {"made": []} | {name: _static(name, each) for name, each in attributes.items()},
        )
        environ = {"DRAWBAR_HOME": str(home.path), "HOME": str(tmp_path)}
        settings = load_settings(
            start=tmp_path, environ=environ, overrides={"backend": "fake", **(overrides or {})}
        )
        made.append(Rig(directory, kind, settings))
        return made[-1]

    yield make
    if made:
        made[-1].close()


def _static(name, value):
    return staticmethod(value) if name.startswith("on_") else value


# write-ahead


def test_an_intent_is_durable_before_it_is_submitted(rigs):
    seen = []

    def look_into_the_store(attempts):
        with sqlite3.connect(f"file:{attempts[0].record}/../../store.sqlite?mode=ro", uri=True) as db:
            seen.extend(db.execute("SELECT tag, state, batch FROM attempt ORDER BY tag").fetchall())
        db.close()
        return [Accepted() for _ in attempts]

    rig = rigs(on_submit=look_into_the_store)
    rig.start(job("a"), job("b"))
    tags = [each.tag for each in rig.backend.submitted]
    assert seen == sorted((tag, "submitted", tags[0]) for tag in tags)


def test_a_result_is_durable_before_the_engine_hears_of_it(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end(tag)
    rig.until(lambda: rig.posted)
    while rig.posted:
        rig.posted.popleft()()
    assert rig.told("executed") == []
    rig.round()
    with Store(rig.directory.store, read_only=True) as store:
        assert store.attempt(tag).state is JobState.FINISHED
    assert rig.told("executed")[0][0] == "a"


def test_results_are_forgotten_at_the_backend_only_when_they_are_durable(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end(tag)
    rig.result()
    rig.until(lambda: rig.backend.forgotten)
    assert rig.backend.forgotten == [tag]


# answers of submit


def test_an_accepted_job_runs_and_ends_once(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.tell(tag)
    rig.backend.tell(tag)
    rig.backend.tell(tag, JobState.SUBMITTED)
    rig.backend.end(tag)
    rig.backend.end(tag, JobResult(exit_code=9, reason=Reason.EXIT_CODE))
    rig.backend.tell(tag)
    assert rig.result().exit_code == 0
    rig.round()
    assert len(rig.told("executed")) == 1
    states = [event.state for event in rig.events]
    assert states == [JobState.QUEUED, JobState.SUBMITTED, JobState.RUNNING, JobState.FINISHED]
    assert not rig.dispatcher.busy


def test_states_may_be_skipped_and_native_words_are_kept(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.tell(tag, JobState.SUBMITTED, native_state="PENDING", message="Priority", native_id="17")
    rig.until(lambda: rig.store.attempt(tag).native_state == "PENDING")
    assert rig.store.attempt(tag).message == "Priority"
    rig.backend.end(tag)
    assert rig.result().exit_code == 0
    assert rig.store.attempt(tag).native_id == "17"


def test_what_is_refused_fails_with_the_backends_reason(rigs):
    rig = rigs(on_submit=lambda attempts: [Refused(message="no such queue")] * len(attempts))
    rig.submit(job())
    result = rig.result()
    assert (result.reason, result.message) == (Reason.REJECTED, "no such queue")
    assert not rig.dispatcher.busy


def test_a_batch_may_be_answered_job_by_job(rigs):
    def submit(attempts):
        return [Accepted(), Refused(message="no"), InDoubt(message="perhaps")]

    rig = rigs(on_submit=submit, on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    tags = rig.start(job("a"), job("b"), job("c"))
    assert rig.result("b").reason == Reason.REJECTED
    rig.until(lambda: rig.backend.found)
    assert rig.backend.found[0] == [tags[2]]
    for tag in (tags[0], tags[2]):
        rig.backend.end(tag)
    assert rig.result("a").exit_code == rig.result("c").exit_code == 0


def _running(attempt):
    return JobStatus(tag=attempt.tag, state=JobState.RUNNING)


def raises(attempts):
    raise BackendError("the head node is away", transient=True)


@pytest.mark.parametrize(
    "submit",
    [
        raises,
        lambda attempts: [InDoubt(message="timed out")] * len(attempts),
        lambda attempts: None,
        lambda attempts: [],
        lambda attempts: [Accepted()] * (len(attempts) + 1),
        lambda attempts: ["accepted"] * len(attempts),
        lambda attempts: 3,
        lambda attempts: iter([Accepted()]),
    ],
)
def test_what_may_have_arrived_is_looked_up_and_not_repeated(rigs, submit):
    """Exceptions, doubts and lies all leave a job in doubt; once found it goes on as any other."""
    finds = iter([lambda _: {}, lambda _: {}])
    rig = rigs(on_submit=submit, on_find=lambda each: next(finds, _ended)(each), grace_s=3600.0)
    rig.submit(job())
    assert rig.result().exit_code == 0
    assert len(rig.backend.submitted) == 1
    assert len(rig.backend.found) == 3


def _ended(attempts):
    return {each.tag: JobStatus(tag=each.tag, state=JobState.FINISHED, result=OK) for each in attempts}


def test_a_job_that_is_not_found_in_time_is_lost_and_repeated(rigs):
    submits = iter([raises])
    rig = rigs(on_submit=lambda attempts: next(submits, lambda each: [Accepted()])(attempts))
    rig.submit(job())
    tag = rig.prepared()
    first, second = rig.attempts()
    assert (first.result.reason, second.number) == (Reason.LOST, 2)
    rig.backend.end(tag)
    assert rig.result().exit_code == 0


@pytest.mark.parametrize(
    "find", [raises, lambda attempts: None, lambda attempts: 3, lambda attempts: {attempts[0].tag: "running"}]
)
def test_a_lookup_that_fails_proves_nothing(rigs, find):
    """While nothing is known the job stays in doubt, and what is wrong is shown."""
    finds = [find, find, _ended]
    rig = rigs(
        on_submit=raises, on_find=lambda attempts: (finds.pop(0) if len(finds) > 1 else finds[0])(attempts)
    )
    rig.submit(job())
    rig.until(lambda: len(rig.backend.found) >= 1)
    rig.until(lambda: rig.dispatcher.trouble)
    assert "fake" in rig.dispatcher.trouble[0]
    assert rig.result().exit_code == 0
    assert len(rig.backend.submitted) == 1


def test_a_lookup_that_began_before_the_grace_was_over_proves_nothing(rigs):
    slow = threading.Event()

    def find(attempts):
        if not slow.is_set():
            slow.wait(0.6)
            slow.set()
            return {}
        return _ended(attempts)

    rig = rigs(on_submit=raises, on_find=find, grace_s=0.3)
    rig.submit(job())
    assert rig.result().exit_code == 0


def test_a_call_beyond_its_deadline_is_in_doubt_and_its_late_answer_ignored(rigs):
    late = threading.Event()

    def submit(attempts):
        late.wait(PATIENCE_S)
        return [Refused(message="too late")] * len(attempts)

    rig = rigs(on_submit=submit, on_find=_ended, deadline_s=0.2)
    rig.submit(job())
    assert rig.result().exit_code == 0
    late.set()
    for _ in range(5):
        rig.round()
        time.sleep(0.01)
    assert len(rig.told("executed")) == 1


def test_a_job_is_not_repeated_while_its_submit_may_still_bring_it_about(rigs):
    """A submit that was given up goes on in its thread; nothing is lost before it has returned."""
    late, arrived = threading.Event(), []

    def submit(attempts):
        late.wait(PATIENCE_S)
        arrived.extend(attempts)
        return [Accepted() for _ in attempts]

    rig = rigs(on_submit=submit, on_find=lambda _: _ended(arrived), deadline_s=0.1)
    rig.submit(job())
    rig.until(lambda: rig.kind.made and len(rig.backend.found) >= 3)
    assert rig.told("prepare") == []
    late.set()
    assert rig.result().exit_code == 0
    assert len(rig.backend.submitted) == 1


def test_a_slow_submit_delays_no_cancel(rigs):
    late = threading.Event()
    rig = rigs(on_submit=lambda attempts: late.wait(PATIENCE_S) and [Accepted() for _ in attempts])
    rig.submit(job())
    rig.until(lambda: rig.kind.made and rig.backend.submitted)
    rig.dispatcher.cancel([("a", 1)])
    rig.until(lambda: rig.backend.cancelled)
    late.set()
    rig.backend.end(rig.backend.cancelled[0], JobResult(reason=Reason.CANCELLED))
    assert rig.result().reason == Reason.CANCELLED


def test_trouble_is_shown_and_fails_nothing(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.events.trouble("cannot see my jobs")
    rig.until(lambda: rig.dispatcher.trouble)
    assert rig.dispatcher.trouble == ["fake: cannot see my jobs"]
    rig.backend.end(tag)
    assert rig.result().exit_code == 0


def test_events_of_strangers_are_ignored_and_nonsense_is_the_backends_error(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end("db-nobody")
    with pytest.raises(TypeError, match="JobStatus"):
        rig.backend.events.status([tag])
    rig.backend.end(tag)
    assert rig.result().exit_code == 0


def test_a_backend_that_cannot_be_started_is_an_error_that_names_it(rigs):
    rig = rigs(start=lambda self, events: 1 / 0)
    with pytest.raises(InfrastructureError, match=r"'fake'.*division"):
        rig.submit(job())
    rig = rigs(capacity=lambda self: 1 / 0)
    with pytest.raises(InfrastructureError, match=r"'fake'.*division"):
        rig.submit(job("b"))


# retries


@pytest.mark.parametrize("reason", [Reason.LOST, Reason.EVICTED, Reason.NODE_LOST])
def test_what_the_infrastructure_did_is_repeated_unnoticed_and_not_for_ever(rigs, reason):
    rig = rigs()
    (tag,) = rig.start(job(retry=RetryPolicy(infrastructure=2)))
    for number in (1, 2):
        rig.backend.end(tag, JobResult(reason=reason))
        tag = rig.prepared(number)
        assert rig.told("executed") == []
    rig.backend.end(tag, JobResult(reason=reason))
    assert rig.result().reason == reason
    assert len({each.tag for each in rig.backend.submitted}) == 3
    assert len({each.record for each in rig.backend.submitted}) == 3


def test_a_temporary_code_is_repeated_as_often_as_asked(rigs):
    rig = rigs()
    (tag,) = rig.start(job(retry=RetryPolicy(temporary=1)))
    temporary = JobResult(exit_code=75, reason=Reason.TEMPORARY)
    rig.backend.end(tag, temporary)
    rig.backend.end(rig.prepared(), temporary)
    assert rig.result().exit_code == 75


def test_out_of_memory_is_repeated_with_more_of_it(rigs):
    rig = rigs()
    resources = Resources(memory_mib=100, memory_limit_mib=150)
    (tag,) = rig.start(job(resources=resources, retry=RetryPolicy(out_of_memory=2, memory_factor=1.5)))
    for number in (1, 2):
        rig.backend.end(tag, JobResult(reason=Reason.OUT_OF_MEMORY))
        tag = rig.prepared(number)
    asked = [
        (each.spec.resources.memory_mib, each.spec.resources.memory_limit_mib)
        for each in rig.backend.submitted
    ]
    assert asked == [(100, 150), (150, 225), (225, 337)]
    rig.backend.end(tag, JobResult(reason=Reason.OUT_OF_MEMORY))
    assert rig.result().reason == Reason.OUT_OF_MEMORY


def test_out_of_memory_without_a_wish_for_memory_is_not_repeated(rigs):
    rig = rigs()
    (tag,) = rig.start(job(retry=RetryPolicy(out_of_memory=2)))
    rig.backend.end(tag, JobResult(reason=Reason.OUT_OF_MEMORY))
    assert rig.result().reason == Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "reason", [Reason.EXIT_CODE, Reason.KILLED, Reason.TIMEOUT, Reason.IMAGE, Reason.HELD]
)
def test_the_users_own_failures_are_not_repeated(rigs, reason):
    rig = rigs()
    (tag,) = rig.start(job(retry=RetryPolicy(temporary=3, out_of_memory=3)))
    rig.backend.end(tag, JobResult(exit_code=1, reason=reason))
    assert rig.result().reason == reason


# limits


def test_no_more_is_handed_over_than_limits_allow(rigs):
    rig = rigs({"limits.jobs_in_flight": 2})
    rig.submit(*(job(f"a/{n}") for n in range(5)))
    rig.until(lambda: rig.kind.made and len(rig.backend.submitted) == 2)
    for _ in range(3):
        rig.round()
    assert len(rig.backend.submitted) == 2
    for number in range(5):
        rig.backend.end(rig.backend.submitted[number].tag)
        rig.until(lambda number=number: len(rig.backend.submitted) == min(5, number + 3))
    assert [each.spec.identity for each in rig.backend.submitted] == [f"a/{n}" for n in range(5)]


def test_what_can_never_fit_is_refused_at_once(rigs):
    rig = rigs(size=Capacity(cpus=4))
    rig.submit(job(resources=Resources(cpus=5)), job("b"))
    result = rig.result()
    assert result.reason == Reason.REJECTED
    assert "5 cpus" in result.message
    rig.until(lambda: rig.backend.submitted)


# cancelling


def test_a_live_job_is_cancelled_at_its_backend(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.dispatcher.cancel([("a", 1), ("never", 1)])
    rig.until(lambda: rig.backend.cancelled)
    rig.backend.end(tag, JobResult(reason=Reason.CANCELLED))
    assert rig.result().reason == Reason.CANCELLED


def test_a_job_that_ended_before_the_cancel_arrived_keeps_its_result(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.dispatcher.cancel([("a", 1)])
    rig.backend.end(tag)
    assert rig.result().exit_code == 0


def test_a_waiting_job_is_cancelled_here(rigs):
    rig = rigs({"limits.jobs_in_flight": 1})
    rig.submit(job("a"), job("b"), job("c"))
    rig.until(lambda: rig.kind.made and rig.backend.submitted)
    rig.dispatcher.cancel([("b", 1)])
    assert rig.result("b").reason == Reason.CANCELLED
    rig.backend.end(rig.backend.submitted[0].tag)
    rig.until(lambda: len(rig.backend.submitted) == 2)
    assert rig.backend.submitted[1].spec.identity == "c"
    assert (rig.dispatcher.counts.queued, rig.dispatcher.counts.running) == (0, 1)


def test_a_job_that_is_being_prepared_again_is_cancelled_here(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end(tag, JobResult(reason=Reason.LOST))
    rig.until(lambda: rig.told("prepare"))
    rig.dispatcher.cancel([("a", 1)])
    assert rig.result().reason == Reason.LOST
    rig.dispatcher.again(("a", 1))
    rig.round()
    assert not rig.dispatcher.busy
    assert len(rig.backend.submitted) == 1


def test_cancelling_all_ends_what_waits_and_asks_for_the_rest(rigs):
    rig = rigs({"limits.jobs_in_flight": 1})
    rig.submit(job("a"), job("b"))
    rig.until(lambda: rig.kind.made and rig.backend.submitted)
    rig.dispatcher.cancel_all()
    assert rig.result("b").reason == Reason.CANCELLED
    rig.until(lambda: rig.backend.cancelled)
    rig.submit(job("c"))
    assert rig.result("c").reason == Reason.CANCELLED
    rig.backend.end(rig.backend.submitted[0].tag, JobResult(reason=Reason.LOST))
    assert rig.result("a").reason == Reason.LOST
    assert rig.told("prepare") == []
    assert not rig.dispatcher.busy


def test_a_cancel_that_failed_is_asked_for_again(rigs, monkeypatch):
    monkeypatch.setattr("drawbar.dispatcher._CANCEL_AGAIN_S", 0.05)
    rig = rigs(on_cancel=raises)
    (tag,) = rig.start(job())
    rig.dispatcher.cancel([("a", 1)])
    rig.until(lambda: len(rig.backend.cancelled) >= 3)
    rig.backend.end(tag, JobResult(reason=Reason.CANCELLED))
    assert rig.result().reason == Reason.CANCELLED


def test_what_waits_too_long_at_its_backend_is_unschedulable_with_the_schedulers_words(rigs):
    rig = rigs({"unschedulable_s": 1})
    waiting, running = rig.start(job("a"), job("b"))
    rig.backend.tell(waiting, JobState.SUBMITTED, message="ReqNodeNotAvail")
    rig.backend.tell(running)
    rig.until(lambda: rig.dispatcher.check_waiting() or rig.backend.cancelled)
    rig.dispatcher.check_waiting()
    rig.round()
    assert rig.backend.cancelled == [waiting]
    rig.backend.end(waiting, JobResult(reason=Reason.CANCELLED))
    result = rig.result("a")
    assert result.reason == Reason.UNSCHEDULABLE
    assert result.message == "it waited for more than 1 s: ReqNodeNotAvail"


# restarts


def test_a_live_job_is_found_again_and_its_result_delivered_once(rigs):
    (tag,) = rigs().start(job())
    rig = rigs(on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    assert rig.look(job()) == ["running"]
    rig.dispatcher.want([("a", 1)])
    rig.until(lambda: rig.kind.made and rig.backend.found)
    rig.backend.end(tag)
    assert rig.result().exit_code == 0
    assert rig.backend.submitted == []


def test_a_job_that_was_never_handed_over_is_a_miss(rigs):
    rig = rigs()
    rig.submit(job())
    rig.store.commit()
    rig = rigs()
    assert rig.look(job()) == ["miss"]
    assert not rig.dispatcher.busy
    (tag,) = rig.start(job())
    rig.backend.end(tag)
    assert rig.result().exit_code == 0
    assert [row.number for row in rig.attempts()] == [1, 2]


def test_a_job_that_was_lost_between_drives_is_repeated_even_if_its_end_came_early(rigs):
    """Found running, and lost before the engine said that it wants it: still repeated unnoticed."""
    rigs().start(job())
    rig = rigs(on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    assert rig.look(job()) == ["running"]
    rig.until(lambda: rig.kind.made and rig.backend.found)
    row = rig.dispatcher.history["a", 1]
    rig.backend.end(row.tag, JobResult(reason=Reason.NODE_LOST))
    rig.until(lambda: row.state.terminal)
    rig.dispatcher.want([("a", 1)])
    rig.backend.end(rig.prepared())
    assert rig.result().exit_code == 0


def test_executed_and_not_accepted_comes_back_to_the_engine(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end(tag)
    rig.result()
    rig = rigs()
    assert rig.look(job()) == ["running"]
    rig.dispatcher.want([("a", 1)])
    assert rig.result().exit_code == 0
    rig.dispatcher.accept(("a", 1), [], [], {"v": 1})
    rig.round()
    rig = rigs()
    assert rig.look(job()) == ["hit"]
    assert rig.told("found")[0][0][0]["value"] == {"v": 1}


def test_a_failed_try_is_a_hit_once_there_is_a_next_one(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.backend.end(tag, JobResult(exit_code=1, reason=Reason.EXIT_CODE))
    rig.result()
    assert rig.look(job()) == ["miss"]
    rig.start(job(try_number=2))
    assert rig.look(job(), job(try_number=2)) == ["hit", "running"]


def test_a_rejected_job_is_failed_and_a_discarded_one_repeated(rigs):
    rig = rigs()
    for tag in rig.start(job("a"), job("b")):
        rig.backend.end(tag)
    rig.result("a")
    rig.result("b")
    rig.dispatcher.reject(("a", 1), "collection", "no such file")
    rig.dispatcher.accept(("b", 1), [], [], None)
    rig.round()
    assert rig.look(job("a"), job("b")) == ["miss", "hit"]
    assert rig.store.attempt(rig.dispatcher.history["a", 1].tag).state is JobState.FAILED
    rig.dispatcher.history.discard({"b"})
    rig.round()
    assert rig.look(job("b")) == ["miss"]


def test_a_changed_job_waits_for_the_end_of_its_old_attempt(rigs):
    (old,) = rigs().start(job())
    rig = rigs(on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    changed = job(canonical="changed")
    assert rig.look(changed) == ["miss"]
    assert rig.told("found")[-1][1] is True
    rig.dispatcher.clear([("a", 1, False, [])])
    rig.until(lambda: rig.backend.cancelled)
    assert rig.backend.cancelled == [old]
    assert rig.told("cleared") == []
    rig.backend.end(old, JobResult(reason=Reason.CANCELLED))
    rig.until(lambda: rig.told("cleared"))
    assert rig.told("executed") == []
    (tag,) = rig.start(changed)
    rig.backend.end(tag)
    assert rig.result().exit_code == 0
    assert rig.dispatcher.counts.failed == 0


@pytest.mark.parametrize(
    ("wanted", "stops"),
    [
        (["b", 1, False, ["/w/y"]], False),
        (["b", 1, False, ["/w/x"]], True),
        (["b", 1, False, ["/w/x/inside"]], True),
        (["b", 1, False, ["/w"]], True),
        (["b", 1, False, ["/w/xy"]], False),
        (["b", 1, True, []], True),
        (["a", 2, False, []], False),
    ],
)
def test_rivals_are_those_that_would_work_in_one_place(rigs, wanted, stops):
    rigs().start(job(outputs=("/w/x",)))
    rig = rigs(on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    rig.look(job("b"))
    rig.dispatcher.clear([wanted])
    rig.until(lambda: rig.backend.cancelled if stops else rig.told("cleared"))
    assert bool(rig.backend.cancelled) == stops


def test_what_the_engine_asked_for_is_nobodys_rival(rigs):
    rigs().start(job(outputs=("/w/x",)))
    rig = rigs(on_find=lambda attempts: {each.tag: _running(each) for each in attempts})
    rig.look(job())
    rig.dispatcher.want([("a", 1)])
    rig.dispatcher.clear([["b", 1, True, []]])
    rig.until(lambda: rig.told("cleared"))
    assert rig.backend.cancelled == []


# cost


def _submit_and_end(self, attempts):
    self.events.status([JobStatus(tag=each.tag, state=JobState.FINISHED, result=OK) for each in attempts])
    return [Accepted() for _ in attempts]


def test_the_cost_of_a_job_does_not_grow_with_the_number_of_jobs(rigs):
    rig = rigs({"limits.jobs_in_flight": 500}, submit=_submit_and_end)
    spent = []
    for thousand in range(10):
        started = time.process_time()
        rig.submit(*(job(f"a/{thousand}/{n}") for n in range(1000)))
        rig.until(lambda: not rig.dispatcher.busy)
        for n in range(1000):
            rig.dispatcher.accept((f"a/{thousand}/{n}", 1), [], [], None)
        rig.round()
        spent.append(time.process_time() - started)
    print(f"CPU ms of a job: {spent[0]:.3f} in the first thousand, {spent[-1]:.3f} in the tenth")
    assert spent[-1] < 3 * spent[0]
    assert rig.dispatcher.counts.finished == len(rig.told("executed")) == 10_000


def test_ten_thousand_waiting_jobs_cost_no_more_each_than_a_thousand(rigs):
    rig = rigs({"limits.jobs_in_flight": 500}, submit=_submit_and_end)
    spent = {}
    for count in (1000, 10_000):
        started = time.process_time()
        rig.submit(*(job(f"{count}/{n}", resources=Resources(memory_mib=1 + n % 7)) for n in range(count)))
        rig.until(lambda: not rig.dispatcher.busy)
        spent[count] = (time.process_time() - started) / count
    assert spent[10_000] < 3 * spent[1000]


def test_jobs_that_ended_are_kept_in_the_store_and_not_in_memory(rigs):
    rig = rigs({"limits.jobs_in_flight": 200}, submit=_submit_and_end)

    def kept() -> int:
        rows = (each for each in gc.get_objects() if isinstance(each, AttemptRow))
        return sum(row.record.startswith(f"{rig.directory.path}/") for row in rows)

    for batch in range(4):
        rig.submit(*(job(f"{batch}/{n}") for n in range(200)))
        rig.until(lambda count=200 * (batch + 1): len(rig.told("executed")) == count)
        assert kept() >= 200
        for n in range(200):
            rig.dispatcher.accept((f"{batch}/{n}", 1), [], [], None)
        rig.round()
    # the threads that call the backend may hold what they did last
    assert rig.until(lambda: kept() <= 200)
    assert rig.look(job("2/7"), job("2/200")) == ["hit", "miss"]
    rig.dispatcher.history.discard()
    assert kept() <= 200
    rig.round()
    assert rig.look(job("2/7")) == ["miss"]


def test_what_nobody_acts_on_may_wait_for_a_commit_that_somebody_needs(rigs):
    rig = rigs()
    (tag,) = rig.start(job())
    rig.dispatcher.status([JobStatus(tag=tag, state=JobState.RUNNING)])
    rig.dispatcher.dispatch()
    assert rig.store.pending
    assert rig.dispatcher.effects == []
    rig.dispatcher.status([JobStatus(tag=tag, state=JobState.FINISHED, result=OK)])
    assert rig.dispatcher.effects != []
    rig.result()
    rig.dispatcher.accept(("a", 1), [], [], None)
    rig.dispatcher.dispatch()
    assert rig.store.pending
    assert rig.dispatcher.effects == []


def test_what_left_memory_is_read_again_and_its_attempts_go_on_being_counted(rigs):
    rig = rigs(submit=_submit_and_end)
    rig.submit(job())
    rig.until(lambda: rig.told("executed"))
    rig.dispatcher.accept(("a", 1), [], [], {"v": 1})
    rig.round()
    rig.dispatcher.history.discard()
    rig.round()
    rig.submit(job())
    rig.until(lambda: len(rig.told("executed")) == 2)
    rig.dispatcher.accept(("a", 1), [], [], {"v": 2})
    rig.round()
    assert [(row.number, row.outcome) for row in rig.attempts()] == [
        (1, "discarded"),
        (2, "accepted"),
    ]
    assert rig.dispatcher.history["a", 1].value == '{"v":2}'
