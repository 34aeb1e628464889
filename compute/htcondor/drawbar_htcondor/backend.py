"""The HTCondor backend: submit descriptions and queries; the rest is `drawbar.batch`."""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, ClassVar, TypeVar

from drawbar.backend import BackendFeature
from drawbar.batch import Batch, BatchBackend
from drawbar.batchcalls import Busy, Rejected
from drawbar.batchresults import Seen
from drawbar.errors import BackendError, Problem
from drawbar.model import JobSpec, Resources
from drawbar.options import Options as BaseOptions

from drawbar_htcondor import ads
from drawbar_htcondor.options import (
    FAIL,
    RELEASE,
    WAIT,
    HTCondorHints,
    HTCondorOptions,
    description,
    wanted,
)

T = TypeVar("T")

_NOT_NOW = re.compile(
    r"Unable to locate|Failed to connect|connection refused|MAX_JOBS|Unable to contact|no schedd"
    r"|Failed to initiate",
    re.IGNORECASE,
)
"""The schedd did nothing, and may do it later."""
_NEVER = re.compile(r"Parse error|Submit:-?\d|Cannot allocate a cluster id|permission denied", re.IGNORECASE)
"""The schedd did nothing, and never will."""
_AT_ONCE = 500
_LOOK_BACK_S = 7 * 86400


class HTCondorBackend(BatchBackend):
    """Jobs of one submission that ask for the same go as one cluster.

    Workspaces must be on a file system that the machines of the pool share. A job that HTCondor evicts
    is removed, so that each start is an attempt that drawbar knows of.
    """

    name: ClassVar[str] = "htcondor"
    api: ClassVar[int] = 1
    features: ClassVar[frozenset[BackendFeature]] = BatchBackend.features | {BackendFeature.GPUS}
    Options: ClassVar[type[BaseOptions]] = HTCondorOptions
    Hints: ClassVar[type[BaseOptions]] = HTCondorHints
    index_variable: ClassVar[str] = "DRAWBAR_INDEX"
    own_group: ClassVar[str] = "*condor*slot*"

    options: HTCondorOptions

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self._calling = threading.Lock()  # the bindings are not made for several threads
        self._schedd: Any = None

    def resources(self, hints: BaseOptions, resources: Resources) -> Resources:
        """`htcondor_request_*` and `htcondor_max_runtime` are resources."""
        assert isinstance(hints, HTCondorHints)
        return wanted(hints, resources)

    def directives(self, spec: JobSpec) -> tuple[str, ...]:
        """Lines of the submit description, names and values in turn."""
        hints = self.hints(spec)
        assert isinstance(hints, HTCondorHints)
        if self.options.hold not in (FAIL, RELEASE, WAIT):
            raise ValueError(f"hold must be {FAIL}, {RELEASE} or {WAIT}, not {self.options.hold!r}")
        return tuple(word for line in description(self.options, hints, spec.resources) for word in line)

    def hand_over(self, batch: Batch) -> str:
        """One cluster."""
        lines = {
            "universe": "vanilla",
            "executable": _escaped(batch.script),
            "initialdir": _escaped(batch.directory),
            "transfer_executable": "false",
            "should_transfer_files": "NO",
            "output": "scheduler.log",
            "error": "scheduler.log",
            "batch_name": batch.name,
            f"My.{ads.BATCH}": f'"{batch.name}"',
            f"My.{ads.ARRAY}": str(batch.array).lower(),
            "number": "$(Process) + 1",
            "environment": f'"{self.index_variable}=$INT(number)"',
            "max_retries": "0",
            "job_max_vacate_time": str(int(self.options.grace_s)),
            **dict(zip(batch.directives[::2], batch.directives[1::2], strict=True)),
        }

        def submit(schedd: Any) -> str:
            import htcondor2

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about words that it does not know, which are ours
                answer = schedd.submit(htcondor2.Submit(lines), count=len(batch.attempts))
            return str(answer.cluster())

        try:
            return self._call("submit", submit)
        except BackendError as error:
            if _NOT_NOW.search(str(error)):
                raise Busy(str(error)) from error
            if _NEVER.search(str(error)):
                raise Rejected(str(error)) from error
            raise

    def job_id(self, batch_id: str, index: int) -> str:
        """Numbers of jobs in a cluster begin with 0."""
        return f"{batch_id}.{max(0, index - 1)}"

    def queue(self) -> Iterable[Seen]:
        """One query of the schedd."""

        def query(schedd: Any) -> list[Any]:
            import htcondor2

            found: list[Any] = schedd.query(
                constraint=f"{ads.BATCH} =!= undefined",
                projection=ads.PROJECTION,
                opts=htcondor2.QueryOpts.DefaultMyJobsOnly,
            )
            return found

        return list(ads.queued(self._call("query", query), self.options.hold))

    def history(self, names: Collection[str]) -> Iterable[Seen]:
        """One look at what the schedd remembers of the last week."""
        listed = ", ".join(f'"{name}"' for name in sorted(names))

        def look(schedd: Any) -> list[Any]:
            found: list[Any] = schedd.history(
                constraint=f"member({ads.BATCH}, {{{listed}}})",
                projection=ads.PROJECTION,
                since=f"EnteredCurrentStatus < {int(time.time()) - _LOOK_BACK_S}",
            )
            return found

        return list(ads.ended(self._call("history", look)))

    def stop(self, native_ids: Sequence[str]) -> None:
        """One action for each 500 jobs."""
        rest = iter(native_ids)
        while some := list(islice(rest, _AT_ONCE)):

            def remove(schedd: Any, some: list[str] = some) -> None:
                import htcondor2

                schedd.act(htcondor2.JobAction.Remove, some, reason="removed by drawbar")

            self._call("remove", remove)

    def check_client(self) -> Sequence[Problem]:
        """The bindings and the schedd."""
        try:
            self.queue()
        except BackendError as error:
            return [Problem(message=str(error), hint="see CONDOR_CONFIG, and the options schedd and pool")]
        return []

    def _call(self, what: str, work: Callable[[Any], T]) -> T:
        """Do something with the schedd, within the budget; `BackendError` has its words."""
        self.budget.take()
        try:
            import htcondor2
        except ImportError as error:
            raise Rejected("the bindings are missing; install drawbar[htcondor]") from error
        if not self._calling.acquire(timeout=self.options.call_timeout_s):
            raise BackendError(f"HTCondor cannot {what}: an earlier call is still waiting", transient=True)
        answer: Future[T] = Future()

        def call() -> None:  # the bindings know no deadline, so a call that takes too long is left behind
            try:
                if self._schedd is None:
                    self._schedd = self._locate(htcondor2)
                answer.set_result(work(self._schedd))
            except Exception as error:  # the bindings raise all sorts
                self._schedd = None  # it may come back at another address
                answer.set_exception(error)
            finally:
                self._calling.release()

        threading.Thread(target=call, name=f"drawbar-{self.name}-call", daemon=True).start()
        try:
            return answer.result(self.options.call_timeout_s)
        except TimeoutError as error:
            waited = f"no answer within {self.options.call_timeout_s:g} s"
            raise BackendError(f"HTCondor cannot {what}: {waited}", transient=True) from error
        except Exception as error:
            message = f"HTCondor cannot {what}: {' '.join(str(error).split())}"
            raise BackendError(message, transient=True) from error

    def _locate(self, htcondor2: Any) -> Any:
        if not self.options.schedd and not self.options.pool:
            return htcondor2.Schedd()
        collector = htcondor2.Collector(self.options.pool)
        return htcondor2.Schedd(collector.locate(htcondor2.DaemonType.Schedd, self.options.schedd))


def _escaped(text: str) -> str:
    """A path as it may stand in a submit description, where `$(...)` is replaced."""
    if not text.isprintable():
        raise Rejected(f"HTCondor takes no control characters in a path: {text!r}")
    return text.replace("$", "$(DOLLAR)")
