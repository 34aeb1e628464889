"""One drive of a run: its engine process, its dispatcher, its store, in one loop on one thread.

A round of the loop: take what happened (the engine spoke, a backend called back, somebody asked for
something), let the dispatcher decide, commit, and only then carry out what was decided. Backends and
other threads put functions into a queue and wake the loop.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawbar import manifest
from drawbar.analysis import Analysis
from drawbar.cache import Cache
from drawbar.codec import CodecError, decode, encode
from drawbar.creation import analysis_of
from drawbar.dispatcher import Dispatcher
from drawbar.driveresult import DriveResult
from drawbar.engine import WorkflowInfo
from drawbar.enginehost import EngineProcess, failure, source_order
from drawbar.errors import (
    DrawbarError,
    EngineDied,
    InfrastructureError,
    LeaseError,
    StoreError,
    ThreadDied,
    UsageError,
)
from drawbar.home import Home
from drawbar.hookspecs import Event
from drawbar.lease import HEARTBEAT_S
from drawbar.model import Outputs, RunState
from drawbar.options import did_you_mean
from drawbar.placement import Placer
from drawbar.placing import Placing
from drawbar.settings import Containers
from drawbar.sources import synchronise
from drawbar.store import Store
from drawbar.wire import Message

_LOOK_S = 1.0
"""How often the driver looks for a cancel request and at the disk."""
_GROUP_S = 0.05
"""How long what nobody acts on may wait to be made durable together with more."""
_CANCEL_S = 60.0
"""How long a cancelled run may take to wind down before its driver lets go."""
_RESERVE_BYTES = 32 << 20
"""Free space below which nothing new is handed over."""

if TYPE_CHECKING:
    from drawbar.driver import Driver


class Drive:
    """What lives for one drive: store, dispatcher, engine process, selector."""

    def __init__(self, driver: Driver, store: Store) -> None:
        self.driver = driver
        self.directory = driver.directory
        self.spec = driver.directory.spec()
        self.store = store
        self.state = RunState.CREATED
        self.selector = selectors.DefaultSelector()
        self.placer = Placer(
            driver.settings,
            driver.plugins,
            backend=self.spec.backend,
            containers=Containers(self.spec.container) if self.spec.container else None,
        )
        self.cache = Cache(Home(self.directory.path.parents[1])) if self.spec.cache else None
        self.dispatcher = Dispatcher(
            self.directory,
            self.spec.workspace,
            self.spec.created,
            store,
            self.placer,
            driver.settings,
            post=driver.post,
            send=self._send,
            observe=self._observe,
            cache=self.cache,
        )
        self.engine: EngineProcess | None = None
        self.order: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        self.placing = Placing(
            self.placer, self.facts, keep=self._keep_facts, send=self._send, note=self._note, post=driver.post
        )
        self.error: DrawbarError | None = None
        self.cancel_deadline: float | None = None
        self.unwritten = False
        """Whether the last commit failed and is to be tried again."""
        self.commit_at: float | None = None
        self.next_look = 0.0
        self.next_beat = 0.0
        self.outcome: Outputs | None = None
        self._sending: list[Message] = []
        self._message = ""
        self._times: dict[str, float | None] = {}

    def run(self) -> DriveResult:
        """See `Driver.drive`."""
        analysis = self._analysis()
        row = self.store.run(self.spec.id)
        self.store.add_run(self.spec.id)
        self.facts.update(row.facts if row else {})
        self.placing.restore()
        self.store.commit()
        self._check_from_step()
        self.dispatcher.recover()
        self.driver.changes = synchronise(self.directory, self.spec, analysis, self.store)
        for sentence in self.driver.changes.sentences():
            self._note(sentence)
        self._cancel_request(clear=True)
        started = row.started if row and row.started else time.time()
        self._set_state(RunState.RUNNING, "", started=started, finished=None)
        self.store.commit()
        self._show_state()
        self.selector.register(self.driver.wake_read, selectors.EVENT_READ, self._woken)
        try:
            try:
                self._start_engine(analysis)
                while not self._over():
                    self._round()
            except (DrawbarError, OSError) as error:
                wrong = error if isinstance(error, DrawbarError) else InfrastructureError(str(error))
                self.error = self.error or wrong
                self._wind_down()
            return self._end(analysis)
        finally:
            if self.engine is not None:
                self.engine.close()
            self.dispatcher.close()
            self.selector.close()
            if self.cache is not None:
                self.cache.close()

    # one round

    def _round(self) -> None:
        for key, _ in self.selector.select(self._timeout()):
            key.data()
        while self.driver.posted:
            self.driver.posted.popleft()()
        self._look()
        if self.driver.cancel_asked and not self.dispatcher.cancelling:
            self.cancel_deadline = time.monotonic() + _CANCEL_S
            self.dispatcher.cancel_all()
            self.placing.give_up()
        if not self.driver.paused:
            self.dispatcher.dispatch()
        if self._commit_due() and not self._commit():
            return
        effects, self.dispatcher.effects = self.dispatcher.effects, []
        for effect in effects:
            effect()
        self._flush()
        self.driver.progress = self.dispatcher.counts
        self.driver.backend_trouble = self.dispatcher.trouble

    def _timeout(self) -> float:
        if self.driver.posted:
            return 0.0
        now = time.monotonic()
        waits = [self.next_look - now]
        if self.commit_at is not None and not self.unwritten:
            waits.append(self.commit_at - now)
        wait = self.dispatcher.wait_s()
        if wait is not None and not self.driver.paused:
            waits.append(wait)
        return max(0.0, min(waits))

    def _commit_due(self) -> bool:
        """Whether what was written has to be durable now, or can wait for more: nobody acts on it yet."""
        if self.dispatcher.effects or self._sending or not self.store.pending:
            return True
        if self.commit_at is None:
            self.commit_at = time.monotonic() + _GROUP_S
        return time.monotonic() >= self.commit_at

    def _commit(self) -> bool:
        """Make the round durable; False when the disk does not take it, which is tried again."""
        try:
            self.store.commit()
        except StoreError as error:
            if not error.transient:
                raise
            self.unwritten = True
            self._pause(str(error))
        else:
            self.unwritten = False
            self.commit_at = None
            self.dispatcher.committed()
        return not self.unwritten

    def _pause(self, why: str) -> None:
        """Hand nothing over for now, for a reason; go on when there is none."""
        if bool(why) != bool(self.driver.paused):
            self._note(f"paused: {why}" if why else "goes on")
        self.driver.paused = why

    def _look(self) -> None:
        """What is looked at from time to time: requests, the disk, the engine's silence, the lease."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + _LOOK_S
        self._cancel_request()
        free = shutil.disk_usage(self.directory.path).free
        if free < _RESERVE_BYTES:
            self._pause(f"only {free >> 20} MiB are free on the disk of {self.directory.path}")
        elif not self.unwritten:
            self._pause("")
        self.placing.overdue()
        waits = self.dispatcher.busy or self.placing.busy or self.driver.paused
        if self.engine is not None and not waits:
            self.engine.check_silence()
        if now >= self.next_beat:
            self.next_beat = now + HEARTBEAT_S
            self.store.beat()
            self.dispatcher.check_waiting()
            self._write_state()

    def _over(self) -> bool:
        if self.driver.letting_go:
            return True
        if self.outcome is None and self.error is None:
            return self.cancel_deadline is not None and time.monotonic() > self.cancel_deadline
        if self.dispatcher.busy and not self.dispatcher.cancelling:
            # The engine is done; what it left in flight is nobody's any more.
            self.cancel_deadline = time.monotonic() + _CANCEL_S
            self.dispatcher.cancel_all()
        late = self.cancel_deadline is not None and time.monotonic() > self.cancel_deadline
        return late or not (self.dispatcher.busy or self.unwritten)

    def _wind_down(self) -> None:
        """The run failed in the driver: end the engine, cancel what is in flight if its ends can be seen."""
        if self.engine is not None:
            self._forget_engine()
        if isinstance(self.error, LeaseError | ThreadDied):
            self.driver.letting_go = True
        with contextlib.suppress(DrawbarError):
            while not self._over():
                self._round()

    # the engine

    def _start_engine(self, analysis: Analysis) -> None:
        self.engine = self.driver.start_engine(analysis.engine, self.driver.settings)
        self.engine.log_to(self.directory.engine_output)
        self.selector.register(self.engine.connection, selectors.EVENT_READ, self._hear)
        if self.engine.output is not None:
            self.selector.register(self.engine.output, selectors.EVENT_READ, self._hear_output)
        definition = analysis.root if self.driver.as_was else self.directory.definition
        root = Path(self.spec.workspace)
        origins = self.driver.changes.origins
        source = analysis.source(root, until=self.spec.until)
        order = {**source_order(source), "definition": str(definition)}
        self.order = {
            "engine": analysis.engine,
            "memory_mib": self.driver.settings.engine.memory_mib,
            "source": order,
            "directory": str(self.directory.path),
            "workspace": self.spec.workspace,
            "origins": None if self.spec.in_place else {name: str(path) for name, path in origins.items()},
            "consumed": sorted(self.store.consumed(self.spec.id)),
            "quiet_since": self.store.quiet_since(self.spec.id),
        }
        self.engine.send([["inspect", self.order]])

    def _hear(self) -> None:
        assert self.engine is not None
        messages = self.engine.read()
        if messages is None:
            if self.outcome is None and self.error is None:
                self.error = EngineDied(self.engine.how_it_ended())
            self._forget_engine()
            return
        for message in messages:
            try:
                self._obey(message)
            except (CodecError, KeyError, TypeError, ValueError, IndexError) as error:
                raise EngineDied(
                    f"the engine process said what makes no sense: {message[0]!r}: {error}"
                ) from error

    def _hear_output(self) -> None:
        if self.engine is None:  # forgotten in this round
            return
        output = self.engine.output
        self.engine.read_output()
        if self.engine.output is None and output is not None:
            self.selector.unregister(output)

    def _forget_engine(self) -> None:
        assert self.engine is not None
        for file in (self.engine.connection, self.engine.output):
            if file is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(file)
        self.engine.close()
        self.engine = None

    def _obey(self, message: Message) -> None:
        """What the engine process asks for, by the kind of message (`drawbar.wire`)."""
        dispatcher = self.dispatcher
        match message:
            case ["place", question]:
                self.placing.place(question)
            case ["lookup", names]:
                dispatcher.lookup([(identity, try_number, key) for identity, try_number, key in names])
            case ["clear", jobs]:
                dispatcher.clear(jobs)
            case ["hits", int(count)]:
                dispatcher.hits(count)
            case ["want", names]:
                dispatcher.want((identity, try_number) for identity, try_number in names)
            case ["submit", jobs]:
                dispatcher.submit(jobs)
            case ["adopt", job]:
                dispatcher.adopt(job)
                dispatcher.effects.append(lambda: self._send(["accepted"]))
            case ["again", identity, try_number]:
                dispatcher.again((identity, try_number))
            case ["accept", identity, try_number, answer]:
                spec = dispatcher.accept(
                    (identity, try_number), answer["outputs"], answer.get("deleted", []), answer["value"]
                )
                if spec.undeclared_outputs:
                    dispatcher.effects.append(lambda: self._send(["accepted"]))
            case ["reject", identity, try_number, reason, text]:
                dispatcher.reject((identity, try_number), reason, text)
            case ["cancel", names]:
                dispatcher.cancel((identity, try_number) for identity, try_number in names)
            case ["consumed", list(paths)]:
                self.store.add_consumed(self.spec.id, paths)
            case ["progress", int() | None as total, int() | None as done]:
                if total != dispatcher.counts.total:
                    self.store.set_run(self.spec.id, total=total)
                dispatcher.counts.total, dispatcher.counts.done = total, done
            case ["notice", str(text)]:
                self._note(text)
            case ["start_over"]:
                dispatcher.history.discard()
                dispatcher.effects.append(lambda: self._send(["accepted"]))
            case ["hello", about]:
                self.facts["engine"] = {"name": about["engine"], "version": about["version"]}
            case ["inspected", info]:
                self._inspected(decode(WorkflowInfo, info))
            case ["finished", outputs]:
                self.outcome = decode(Outputs, outputs)
            case ["failed", order]:
                self.error = self.error or failure(order)
            case _:
                raise EngineDied(f"the engine process said {message[0]!r}, which means nothing here")

    def _inspected(self, info: WorkflowInfo) -> None:
        """The workflow is known: refuse now what could never run, then let the engine begin."""
        for warning in info.warnings:
            self._note(warning)
        self.placing.begin(info)
        if self.driver.from_step is not None:
            self.dispatcher.history.discard(info.from_step(self.driver.from_step))
        self._keep_facts()
        self._send(["execute", self.order])

    def _keep_facts(self) -> None:
        self.store.set_run(self.spec.id, facts=self.facts)

    def _send(self, message: Message) -> None:
        self._sending.append(message)

    def _flush(self) -> None:
        if self.engine is not None:
            if self._sending:
                self.engine.send(self._sending)
            events = selectors.EVENT_READ
            if self.engine.wants_to_send:
                self.engine.flush()
                events |= selectors.EVENT_WRITE if self.engine.wants_to_send else 0
            self.selector.modify(self.engine.connection, events, self._hear)
        self._sending = []

    # beginning and end

    def _analysis(self) -> Analysis:
        if not self.driver.as_was and not (Path(self.spec.source) / self.spec.document).exists():
            self._note(f"{self.spec.source} is gone; the run's own copy of the analysis is used")
            self.driver.as_was = True
        engines = self.driver.plugins.engines
        return analysis_of(self.directory, engines=engines, as_was=self.driver.as_was)

    def _check_from_step(self) -> None:
        if self.driver.from_step is not None:
            steps = {row.step for row in self.store.attempts(self.spec.id)}
            if self.driver.from_step not in steps:
                hint = did_you_mean(self.driver.from_step, steps) or "it has run none"
                raise UsageError(f"the run has no step {self.driver.from_step!r} ({hint})")

    def _end(self, analysis: Analysis) -> DriveResult:
        """Decide what the run came to, and write it down."""
        missing: dict[str, str] = {}
        state: RunState | None
        message, status = "", 0
        if isinstance(self.error, LeaseError | StoreError | ThreadDied):
            state, message, status = None, str(self.error), self.error.exit_status
        elif self.driver.letting_go:
            state, message, status = None, "the driver let go; jobs may be alive", 130
        elif self.driver.cancel_asked:
            state, message, status = RunState.STOPPED, "cancelled", 130
            if self.dispatcher.busy:
                state, message = None, "some jobs could not be cancelled and may be alive"
        elif self.error is not None:
            state, message, status = RunState.FAILED, str(self.error), self.error.exit_status
        else:
            state = RunState.FINISHED
            if self.spec.until is None:
                missing = manifest.missing(self.directory, self.spec, analysis)
            if missing and not self.spec.allow_missing_outputs:
                state, status = RunState.FAILED, 1
                message = "declared outputs are missing: " + "; ".join(
                    f"{path} ({why})" for path, why in missing.items()
                )
        if state is not None:
            self._set_state(state, message, finished=time.time())
            self._keep_facts()
            try:
                self.store.commit()
                manifest.write(self.directory, self.spec, analysis, self.store)
            except InfrastructureError as error:
                self.error = error
                message = f"the end of the run could not be written down: {error}"
                state, status = None, error.exit_status
            else:
                self._show_state()
        return DriveResult(
            state=state,
            message=message,
            exit_status=status,
            changes=tuple(self.driver.changes.sentences()),
            missing_outputs=tuple(missing),
            error=self.error,
            outputs=self.outcome,
        )

    def _set_state(self, state: RunState, message: str, **times: float | None) -> None:
        self.state = state
        self.store.set_run(self.spec.id, state=state, message=message, **times)
        self._message = message
        self._times |= times

    def _show_state(self) -> None:
        """Show the state to others, once it is durable and all that belongs to it is there."""
        self._write_state()
        self._observe(Event(run=self.spec.id, time=time.time(), state=self.state, message=self._message))

    def _write_state(self) -> None:
        with contextlib.suppress(InfrastructureError):  # the store is the truth
            self.directory.write_state(
                {
                    "state": self.state,
                    "message": self._message,
                    "engine": self.spec.engine,
                    "backends": sorted(self.placer.backends),
                    **self._times,
                    "jobs": encode(self.dispatcher.counts),
                    "trouble": self.driver.trouble,
                }
            )

    def _cancel_request(self, *, clear: bool = False) -> None:
        if self.directory.cancel_request.exists():
            self.driver.cancel_asked |= not clear
            self.directory.cancel_request.unlink(missing_ok=True)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self.driver.wake_read, 4096):
                pass

    def _observe(self, event: Event) -> None:
        if self.driver.observer is not None:
            self.driver.observer(event)
        self.driver.plugins.notify(event)

    def _note(self, text: str) -> None:
        if self.driver.notice is not None:
            self.driver.notice(text)
