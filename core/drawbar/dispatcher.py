"""Takes jobs from a run's engine, consults the store, feeds backends, and returns results.

All of it happens on the driver's one thread, in rounds: `Dispatcher` methods change memory and write
to the store, and what must not happen before that is durable (a submit, a message) is put into
`effects`; the driver commits and then carries the effects out, in the same round. So an intent is always
durable before its submit, and a result before anybody hears of it.

An attempt: queued ─▶ submitted (the intent) ─▶ running ─▶ ended ─▶ accepted | rejected. One that may
or may not have arrived at its backend is *in doubt*: it counts as submitted, and is looked up until
the backend knows it or the backend's grace is over. Nothing in doubt is repeated.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

from drawbar.backend import Accepted, Attempt, InDoubt, JobStatus, Refused, Submission
from drawbar.cache import Cache
from drawbar.codec import CodecError, decode, dumps, encode
from drawbar.errors import EngineDied, InfrastructureError
from drawbar.history import Counts, History, Name
from drawbar.home import RunDirectory
from drawbar.hookspecs import Event
from drawbar.identity import directory_name, tag_of
from drawbar.model import TRANSITIONS, JobResult, JobSpec, JobState, Reason
from drawbar.placement import Placer
from drawbar.places import Place, Post
from drawbar.queueing import Budget, Cost, Rate
from drawbar.retries import next_attempt
from drawbar.rivals import Wanted, rivals
from drawbar.settings import Limits, Settings
from drawbar.store import ACCEPTED, DISCARDED, REJECTED, AttemptRow, Store
from drawbar.wire import Message

_CANCEL_AGAIN_S = 10.0


class Dispatcher:
    """The jobs of one run. For the driver's thread, but for what backends call through `post`."""

    def __init__(
        self,
        directory: RunDirectory,
        workspace: str,
        created: float,
        store: Store,
        placer: Placer,
        settings: Settings,
        *,
        post: Post,
        send: Callable[[Message], None],
        observe: Callable[[Event], None],
        cache: Cache | None = None,
    ) -> None:
        self.run = directory.id
        self.counts = Counts()
        self.effects: list[Callable[[], None]] = []
        self.cancelling = False
        self._attempts = directory.attempts
        self._workspace = workspace
        self._created = created
        self._store = store
        self._placer = placer
        self._settings = settings
        self._post = post
        self._send = send
        self._observe = observe
        self._places: dict[str, Place] = {}
        self._budget = Budget.of("the limit of all backends", settings.limits)
        self._rate = Rate(settings.limits.submissions_per_minute)
        self.history = History(store, directory.id, cache)
        self._active: dict[str, AttemptRow] = {}
        self._specs: dict[str, JobSpec] = {}
        self._wanted: set[Name] = set()
        self._repeats: dict[Name, JobSpec] = {}
        """Jobs that the engine was told to prepare again."""
        self._left: set[str] = set()
        """Tags of live attempts that the engine has not asked for since it was started."""
        self._rivals: set[str] | None = None
        """Those of them whose end the engine waits for."""
        self._stopping: dict[str, AttemptRow] = {}
        """Live attempts that their backend was asked to stop."""
        self._late: dict[str, str] = {}
        """What to say of those that were stopped because they waited too long."""
        self._settling: list[AttemptRow] = []
        self._cancel_again = 0.0
        self._cache = cache

    # starting

    def recover(self) -> None:
        """Look up at the backends what the store says is in flight."""
        never = []
        names = dict.fromkeys(row.job for row in self._store.unended(self.run))
        for row in [row for name in names for row in self.history.open(name)]:
            if row.state is JobState.QUEUED:
                row.state, row.outcome = JobState.CANCELLED, DISCARDED
                message = "the driver ended before it was handed over"
                row.result_json = dumps(JobResult(reason=Reason.CANCELLED, message=message))
                never.append(row)
                self._settled(row)
            elif not row.state.terminal:
                place = self._place(row.backend)
                self._active[row.tag], self._specs[row.tag] = row, row.spec
                self._left.add(row.tag)
                self.counts.running += 1
                place.queue.take(Cost.of(self._spec(row).resources))
                place.doubt(self._attempt(row))
        self._store.set_outcomes(never)

    @property
    def busy(self) -> bool:
        """Whether any job is queued or at a backend."""
        return bool(self._active) or any(place.queue.size for place in self._places.values())

    @property
    def trouble(self) -> list[str]:
        """What backends cannot do at the moment."""
        return [f"{place.name}: {place.problem}" for place in self._places.values() if place.problem]

    # from the engine

    def lookup(self, names: Sequence[tuple[str, int, str]]) -> None:
        """Answer a lookup, and whether a miss must ask to `clear` before anything is prepared for it."""
        answers = [self.history.answer((job, number), key, self._active) for job, number, key in names]
        self._tell(["found", answers, bool(self._left)])

    def clear(self, jobs: Sequence[Wanted]) -> None:
        """Stop attempts of earlier drives that would work beside these jobs; answered when none does."""
        left = {tag: self._active[tag] for tag in self._left}
        self._rivals = rivals(jobs, ((tag, self._spec(row)) for tag, row in left.items()))
        self._cancel([left[tag] for tag in self._rivals])
        self._cleared()

    def _cleared(self) -> None:
        if self._rivals is not None and not self._rivals:
            self._rivals = None
            self._tell(["cleared"])

    def adopt(self, job: Mapping[str, Any]) -> None:
        """The engine has put what a job of another run left at this job's own place."""
        spec = decode(JobSpec, json.loads(job["spec"]))
        row = self._new(spec, job["spec"], job["key"], job["document"], f"as in {job['run']}")
        row.state, row.outcome, row.origin = JobState.FINISHED, ACCEPTED, job["run"]
        row.result_json, row.value = dumps(job["result"]), dumps(job["value"])
        row.outputs, row.deleted = dumps(job["outputs"]), dumps(job["deleted"])
        self._wanted.discard(row.job)
        self.counts.cached += 1
        self._store.add_attempts([row])
        self._settled(row)
        self._report(row)

    def want(self, names: Iterable[Name]) -> None:
        """The engine waits for jobs that were found running; those that ended already are delivered."""
        for name in names:
            row = self.history[name]
            self._wanted.add(name)
            self._left.discard(row.tag)
            if row.tag not in self._active:
                self._hand_back(row, row.result)

    def hits(self, count: int) -> None:
        """The engine took so many results from the store."""
        self.counts.cached += count

    def submit(self, jobs: Sequence[Mapping[str, Any]]) -> None:
        """Queue new attempts of jobs that the engine prepared."""
        rows = []
        for job in jobs:
            try:
                spec = decode(JobSpec, json.loads(job["spec"]))
            except (CodecError, TypeError, ValueError) as error:
                raise EngineDied(f"the engine asked for an impossible job: {error}") from error
            rows.append(self._new(spec, job["spec"], job["key"], job["document"], job.get("why", "")))
        self._store.add_attempts(rows)
        self._queue(rows)

    def again(self, name: Name) -> None:
        """Queue the next attempt of a job that the engine has prepared again, unless it was cancelled."""
        spec = self._repeats.pop(name, None)
        if spec is None:
            return
        last = self.history[name]
        why = f"repeated: {last.message or 'it was lost'}"
        row = self._new(spec, dumps(spec), last.key, last.document, why)
        self._store.add_attempts([row])
        self._queue([row])

    def accept(self, name: Name, outputs: Any, deleted: Any, value: Any) -> JobSpec:
        """The engine collected a job's outputs: from now on it is remembered."""
        row = self.history[name]
        spec = self._spec(row)
        row.outcome = ACCEPTED
        row.value, row.outputs, row.deleted = dumps(value), dumps(outputs), dumps(deleted)
        self._store.set_outcomes([row])
        if self._cache is not None and spec.reusable:
            self._cache.put(row)
            self.effects.append(self._cache.flush)
        self._settled(row)
        return spec

    def reject(self, name: Name, reason: str, message: str) -> None:
        """The engine found the outputs of a successful command wrong: the job failed."""
        row = self.history[name]
        result = row.result
        assert result is not None, "only executed jobs are rejected"
        result = replace(result, reason=Reason(reason), message=message)
        row.outcome, row.state, row.message = REJECTED, result.state, message
        row.result_json = dumps(result)
        self.counts.finished -= 1
        self.counts.failed += 1
        self._store.set_outcomes([row])
        self._settled(row)
        self._report(row, result.reason)

    def cancel(self, names: Iterable[Name]) -> None:
        """The engine wants jobs stopped; their ends are delivered as usual."""
        rows = [row for name in names if (row := self.history.last(name)) is not None]
        tags = {row.tag for row in rows}
        for place in self._places.values():
            self._end_waiting(place.queue.take_out(lambda row: row.tag in tags), "the workflow cancelled it")
        for row in rows:
            if self._repeats.pop(row.job, None) is not None:
                self._deliver(row, row.result)
        self._cancel([row for row in rows if row.tag in self._active])

    def cancel_all(self) -> None:
        """The run is to stop: nothing new is handed over, everything in flight is cancelled."""
        self.cancelling = True
        for place in self._places.values():
            self._end_waiting(place.queue.take_out(lambda _: True), "the run was cancelled")
        self._cancel(list(self._active.values()))

    # to the backends

    def dispatch(self) -> None:
        """Hand over what may be handed over; the end of every round."""
        now = time.monotonic()
        for place in self._places.values():
            batch: list[AttemptRow] = []
            while not self.cancelling and (row := place.queue.pop(now)) is not None:
                row.state, row.submitted = JobState.SUBMITTED, time.time()
                row.batch = batch[0].tag if batch else row.tag
                self._active[row.tag] = row
                batch.append(row)
            if batch:
                self.counts.queued -= len(batch)
                self.counts.running += len(batch)
                self._store.set_states(batch)
                self.effects.append(partial(self._submit, place, batch))
                for row in batch:
                    self._report(row)
            if place.ended:
                ended, place.ended = place.ended, []
                self.effects.append(partial(place.forget, [self._attempt(row) for row in ended]))
            place.look(self._lost)
            place.overdue()
        if self._stopping and now >= self._cancel_again:
            self._cancel(list(self._stopping.values()))

    def wait_s(self) -> float | None:
        """When `dispatch` should be called again although nothing has happened; None for never."""
        waits = [place.wait_s() for place in self._places.values()]
        if self._stopping:
            waits.append(max(0.0, self._cancel_again - time.monotonic()))
        return min((wait for wait in waits if wait is not None), default=None)

    def check_waiting(self) -> None:
        """End what has waited too long at its backend; called once per heartbeat."""
        limit = time.time() - self._settings.unschedulable_s
        late = [
            row
            for row in self._active.values()
            if row.state is JobState.SUBMITTED and row.submitted is not None and row.submitted < limit
        ]
        for row in late:
            waited = f"it waited for more than {self._settings.unschedulable_s:.0f} s"
            self._late.setdefault(row.tag, f"{waited}: {row.message}" if row.message else waited)
        self._cancel([row for row in late if row.tag not in self._stopping])

    def close(self) -> None:
        """Let go of the backends; jobs stay alive."""
        for place in self._places.values():
            place.close()

    def _submit(self, place: Place, batch: list[AttemptRow]) -> None:
        place.submit([self._attempt(row) for row in batch], partial(self._submitted, place, batch))

    def _submitted(self, place: Place, batch: list[AttemptRow], answers: Sequence[Submission]) -> None:
        for row, answer in zip(batch, answers, strict=True):
            if row.tag not in self._active:
                continue
            match answer:
                case Accepted():
                    row.native_id = answer.native_id or row.native_id
                case Refused():
                    self._end(row, JobResult(reason=answer.reason, message=answer.message))
                case InDoubt():
                    row.message = answer.message
                    place.doubt(self._attempt(row))

    def _lost(self, tag: str) -> None:
        if tag in self._active:
            message = "its backend does not know it"
            self._end(self._active[tag], JobResult(reason=Reason.LOST, message=message))

    def status(self, statuses: Sequence[JobStatus]) -> None:
        """A backend told of its jobs; ends count once, going back counts never."""
        moved = []
        for status in statuses:
            row = self._active.get(status.tag)
            if row is None:
                continue
            before = (row.state, row.native_state, row.native_id, row.message)
            row.native_state, row.message = status.native_state or row.native_state, status.message
            row.native_id = status.native_id or row.native_id
            if status.result is not None:
                self._end(row, status.result)
                continue
            if status.state in TRANSITIONS[row.state]:
                row.state = status.state
                self._report(row)
            if before != (row.state, row.native_state, row.native_id, row.message):
                moved.append(row)
        self._store.set_states(moved)

    def _cancel(self, rows: Sequence[AttemptRow]) -> None:
        """Ask for live attempts to be stopped, now, and again until they are."""
        self._cancel_again = time.monotonic() + _CANCEL_AGAIN_S
        self._stopping |= {row.tag: row for row in rows}
        for name, group in groupby(sorted(rows, key=attrgetter("backend")), key=attrgetter("backend")):
            attempts = [self._attempt(row) for row in group]
            self.effects.append(partial(self._place(name).cancel, attempts))

    # the life of an attempt

    def _new(self, spec: JobSpec, spec_json: str, key: str, document: str, why: str) -> AttemptRow:
        name = (spec.identity, spec.try_number)
        before = self.history.open(name)
        number = before[-1].number + 1 if before else 1
        record = f"{self._attempts}/{directory_name(spec.identity)}.{spec.try_number}-{number}"
        row = AttemptRow(
            tag=tag_of(self.run, self._created, spec.identity, spec.try_number, key, number),
            run=self.run,
            identity=spec.identity,
            try_number=spec.try_number,
            number=number,
            step=spec.step,
            name=spec.name,
            key=key,
            document=document,
            spec_json=spec_json,
            record=record,
            backend=spec.backend or self._settings.backend,
            state=JobState.QUEUED,
            message=why,
            created=time.time(),
        )
        before.append(row)
        self._specs[row.tag] = spec
        self._wanted.add(name)
        return row

    def _queue(self, rows: Iterable[AttemptRow]) -> None:
        for row in rows:
            cost = Cost.of(self._spec(row).resources)
            place = self._place(row.backend)
            why = place.queue.excess(cost)
            self._report(row)
            if self.cancelling:
                self._end(row, JobResult(reason=Reason.CANCELLED, message="the run was cancelled"))
            elif why:
                self._end(row, JobResult(reason=Reason.REJECTED, message=why))
            else:
                self.counts.queued += 1
                place.queue.push(row, cost)

    def _end_waiting(self, rows: Sequence[AttemptRow], message: str) -> None:
        self.counts.queued -= len(rows)
        for row in rows:
            self._end(row, JobResult(reason=Reason.CANCELLED, message=message))

    def _end(self, row: AttemptRow, result: JobResult) -> None:
        """An attempt ended: record it, and hand it back when the engine waits for it."""
        if self._active.pop(row.tag, None) is not None:
            place = self._place(row.backend)
            place.queue.release(Cost.of(self._spec(row).resources))
            place.known(row.tag)
            place.ended.append(row)
            self.counts.running -= 1
            self._stopping.pop(row.tag, None)
            late = self._late.pop(row.tag, None)
            if late is not None and result.reason is Reason.CANCELLED:
                result = replace(result, reason=Reason.UNSCHEDULABLE, message=late)
        row.state, row.message = result.state, result.message
        row.result_json = dumps(result)
        row.native_id = result.native_id or row.native_id
        self._store.set_states([row])
        self._report(row, result.reason)
        self._left.discard(row.tag)
        if self._rivals is not None:
            self._rivals.discard(row.tag)
            self._cleared()
        if row.job in self._wanted and row is self.history[row.job]:
            self._hand_back(row, result)
        else:
            self._settled(row)

    def _hand_back(self, row: AttemptRow, result: JobResult | None) -> None:
        """The engine waits for this attempt, and it has ended: repeat it, or deliver its result."""
        assert result is not None, "it has ended"
        again = None
        if not result.ok and not self.cancelling:
            spec = self._spec(row)
            policy = spec.retry or self._settings.retry.policy
            again = next_attempt(spec, policy, self.history.failures(row.job))
        if again is not None:
            self._repeats[row.job] = again
            self._specs.pop(row.tag, None)
            self._tell(["prepare", *row.job])
        else:
            self.counts.finished += result.ok
            self.counts.failed += not result.ok
            self._deliver(row, result)

    def _deliver(self, row: AttemptRow, result: JobResult | None) -> None:
        self._wanted.discard(row.job)
        self._tell(["executed", *row.job, encode(result), row.record])
        if result is None or not result.ok:
            self._settled(row)

    def _settled(self, row: AttemptRow) -> None:
        """Nothing more is expected of an attempt: once that is durable, it leaves memory."""
        self._settling.append(row)

    def committed(self) -> None:
        """All that was written is durable: what can be read from the store leaves memory."""
        for row in self._settling:
            self._specs.pop(row.tag, None)
            if row.job not in self._wanted and row.job not in self._repeats:
                self.history.close(row.job)
        self._settling.clear()

    def _tell(self, message: Message) -> None:
        self.effects.append(lambda: self._send(message))

    def _spec(self, row: AttemptRow) -> JobSpec:
        return self._specs.get(row.tag) or row.spec

    def _attempt(self, row: AttemptRow) -> Attempt:
        return Attempt(
            tag=row.tag,
            run=row.run,
            number=row.number,
            record=row.record,
            workspace=self._workspace,
            spec=self._spec(row),
        )

    def _place(self, name: str) -> Place:
        if name not in self._places:
            backend = self._placer.get(name)
            try:
                capacity = backend.capacity()
            except Exception as error:
                why = f"the backend {name!r} does not know what it has: {error}"
                raise InfrastructureError(why) from error
            configured = self._settings.backends.get(name)
            limits = configured.limits if configured else Limits()
            budgets = [
                self._budget,
                Budget.of(f"the limit of backend {name!r}", limits),
                Budget(f"the backend {name!r}", capacity.jobs, capacity.cpus, capacity.memory_mib),
            ]
            rates = [self._rate, Rate(limits.submissions_per_minute)]
            self._places[name] = Place(name, backend, budgets, rates, post=self._post, heard=self.status)
        return self._places[name]

    def _report(self, row: AttemptRow, reason: Reason | None = None) -> None:
        self._observe(
            Event(
                run=self.run,
                time=time.time(),
                state=row.state,
                identity=row.identity,
                step=row.step,
                attempt=row.number,
                backend=row.backend,
                reason=reason,
                message=row.message,
            )
        )
