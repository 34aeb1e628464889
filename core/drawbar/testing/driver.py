"""A stand-in for drawbar's driver that a backend is tested with: it submits, watches and waits.

Every wait and every call is bounded. What a backend does wrong is told as the sentence of the
contract that it breaks.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from drawbar.backend import Accepted, Attempt, Backend, JobStatus, Submission
from drawbar.model import JobResult, JobSpec

T = TypeVar("T")
BackendFactory = Callable[[], Backend]


def broken(sentence: str, detail: str = "") -> NoReturn:
    """Fail the check: `sentence` of the contract does not hold."""
    __tracebackhide__ = True
    pytest.fail(f"the contract says: {sentence}\n{detail}".rstrip(), pytrace=False)


def expect(holds: object, sentence: str, detail: str = "") -> None:
    """Fail the check unless `sentence` of the contract holds."""
    __tracebackhide__ = True
    if not holds:
        broken(sentence, detail)


class Watch:
    """An event sink that remembers everything and can be waited on."""

    def __init__(self) -> None:
        self.statuses: list[JobStatus] = []
        self.troubles: list[str] = []
        self._ends: dict[str, JobStatus] = {}
        self._changed = threading.Condition()

    def status(self, statuses: Sequence[JobStatus]) -> None:
        """Remember what the backend told."""
        with self._changed:
            self.statuses.extend(statuses)
            for each in statuses:
                if each.state.terminal:
                    self._ends.setdefault(each.tag, each)
            self._changed.notify_all()

    def trouble(self, message: str) -> None:
        """Remember that the backend could not see its jobs."""
        with self._changed:
            self.troubles.append(message)

    def of(self, attempt: Attempt) -> list[JobStatus]:
        """What was told about one attempt, in order."""
        with self._changed:
            return [status for status in self.statuses if status.tag == attempt.tag]

    def end(self, attempt: Attempt, patience_s: float) -> JobStatus | None:
        """The first terminal status of an attempt; None when there is none in time."""
        with self._changed:
            self._changed.wait_for(lambda: attempt.tag in self._ends, patience_s)
            return self._ends.get(attempt.tag)


class Driver:
    """One backend under test, with a workspace for its jobs.

    `open` and `close` stand for the start and the end of drawbar; the jobs and `directory` stay.
    """

    def __init__(
        self, factory: BackendFactory, directory: Path, *, patience_s: float, image: str | None
    ) -> None:
        self.directory = directory
        self.patience_s = patience_s
        self.watch = Watch()
        self._factory = factory
        self._image = image
        self._backend: Backend | None = None
        self._started = False
        self._attempts: dict[str, Attempt] = {}
        self._count = itertools.count(1)

    @property
    def backend(self) -> Backend:
        """The backend object that is open now; made, but not started, when there is none."""
        if self._backend is None:
            self._backend = self._factory()
            expect(
                isinstance(self._backend, Backend),
                "the fixture `backend` gives a function that makes a drawbar.backend.Backend",
                f"it made {self._backend!r}",
            )
        return self._backend

    def open(self) -> Driver:
        """Make the backend and start it with a watch of its own."""
        self.watch = Watch()
        self.call(self.backend.start, self.watch)
        self._started = True
        return self

    def close(self) -> None:
        """Close the backend, if it was started, and let go of the object."""
        if self._backend is not None and self._started:
            self.call(self._backend.close)
        self._backend, self._started = None, False

    def call(self, method: Callable[..., T], *arguments: Any) -> T:
        """Call a method of the backend as drawbar does: on another thread, with its deadline."""
        __tracebackhide__ = True
        answer: Future[T] = Future()

        def work() -> None:
            try:
                answer.set_result(method(*arguments))
            except BaseException as error:  # handed to the caller
                answer.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        deadline_s = min(self.backend.deadline_s if self._backend else self.patience_s, self.patience_s)
        try:
            answer.exception(deadline_s)
        except TimeoutError:
            name = getattr(method, "__name__", repr(method))
            broken(
                "each call ends within the deadline of the backend", f"{name} took longer than {deadline_s} s"
            )
        return answer.result()

    def attempt(self, *argv: str, **fields: Any) -> Attempt:
        """An attempt at a job that runs `argv` in the workspace."""
        number = next(self._count)
        tag = f"db-{secrets.token_hex(16)}"
        fields.setdefault("directory", str(self.directory))
        fields.setdefault("image", self._image)
        spec = JobSpec(
            identity=f"kit/{number}",
            name=f"kit-{number}",
            step="kit",
            argv=argv,
            canonical=list(argv),
            **fields,
        )
        record = self.directory / ".records" / tag
        record.parent.mkdir(exist_ok=True)
        attempt = Attempt(
            tag=tag, run="kit", number=1, record=str(record), workspace=str(self.directory), spec=spec
        )
        self._attempts[tag] = attempt
        return attempt

    def shell(self, script: str, *arguments: str, **fields: Any) -> Attempt:
        """An attempt at a job that runs a POSIX shell script; its arguments are `$1`, `$2`, ..."""
        return self.attempt("/bin/sh", "-c", script, "sh", *arguments, **fields)

    def gated(self, gate: Path, exit_code: int = 0, **fields: Any) -> Attempt:
        """An attempt at a job that writes a line to its ledger, and ends when `gate` exists."""
        script = 'echo started >> "$1.ledger"; while [ ! -e "$1" ]; do sleep 0.05; done; exit "$2"'
        return self.shell(script, str(gate), str(exit_code), **fields)

    def submit(self, *attempts: Attempt) -> Sequence[Submission]:
        """Hand a batch over; its answers, one for each."""
        __tracebackhide__ = True
        answers = self.call(self.backend.submit, attempts)
        expect(
            len(answers) == len(attempts),
            "submit gives one answer per attempt, in order",
            f"{len(attempts)} attempts, {len(answers)} answers",
        )
        return answers

    def run(self, *attempts: Attempt) -> list[Accepted]:
        """Hand a batch over that must be accepted."""
        __tracebackhide__ = True
        answers = self.submit(*attempts)
        for attempt, answer in zip(attempts, answers, strict=True):
            expect(
                isinstance(answer, Accepted),
                "a plain job is accepted",
                f"{attempt.spec.argv} was answered with {answer}",
            )
        return [answer for answer in answers if isinstance(answer, Accepted)]

    def find(self, *attempts: Attempt) -> Mapping[str, JobStatus]:
        """What the backend knows of attempts."""
        __tracebackhide__ = True
        return self.call(self.backend.find, attempts)

    def cancel(self, *attempts: Attempt) -> None:
        """Ask for attempts to be stopped."""
        __tracebackhide__ = True
        self.call(self.backend.cancel, attempts)

    def end(self, attempt: Attempt) -> JobResult:
        """The result of an attempt, told by an event."""
        __tracebackhide__ = True
        status = self.watch.end(attempt, self.patience_s)
        if status is None or status.result is None:
            told = ", ".join(str(each.state) for each in self.watch.of(attempt)) or "nothing"
            troubles = "; ".join(filter(None, self.watch.troubles))
            trouble = f"; trouble: {troubles}" if troubles else ""
            broken(
                "every accepted job ends, and its end comes as an event",
                f"{attempt.spec.argv} did not end in {self.patience_s} s; told so far: {told}{trouble}",
            )
        return status.result

    def wait_for(self, condition: Callable[[], object], sentence: str) -> None:
        """Wait for what a job does in the workspace, such as a file to appear."""
        __tracebackhide__ = True
        give_up = time.monotonic() + self.patience_s
        while not condition():
            expect(time.monotonic() < give_up, sentence, f"not so within {self.patience_s} s")
            time.sleep(0.02)

    def clean_up(self) -> None:
        """Stop what is left, as far as the backend lets it be stopped."""
        if not self._attempts:
            self.close()
            return
        if self._backend is None:
            self.open()
        attempts = list(self._attempts.values())
        self.cancel(*attempts)
        found = self.find(*attempts)
        give_up = time.monotonic() + self.patience_s
        for attempt in attempts:
            if attempt.tag in found and not found[attempt.tag].state.terminal:
                self.watch.end(attempt, max(0.0, give_up - time.monotonic()))
        self.call(self.backend.forget, attempts)
        self.close()
