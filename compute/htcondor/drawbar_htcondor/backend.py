"""The HTCondor backend: submit descriptions and queries; the rest is `drawbar.batch`."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import chain, islice
from typing import Any, ClassVar

from drawbar.backend import Attempt, BackendFeature
from drawbar.batch import Batch, BatchBackend
from drawbar.batchcalls import Busy, Rejected
from drawbar.batchresults import Seen
from drawbar.batchscript import Submitted
from drawbar.errors import BackendError, Problem
from drawbar.model import JobSpec, Resources
from drawbar.options import Options as BaseOptions

from drawbar_htcondor import ads, transfer
from drawbar_htcondor.options import (
    FAIL,
    RELEASE,
    WAIT,
    HTCondorHints,
    HTCondorOptions,
    description,
    wanted,
)
from drawbar_htcondor.schedd import Schedd

_NOT_NOW = re.compile(
    r"Unable to locate|Failed to connect|connection refused|MAX_JOBS|Unable to contact|no schedd"
    r"|Failed to initiate",
    re.IGNORECASE,
)
"""The schedd did nothing, and may do it later."""
_NEVER = re.compile(
    r"Parse error|Submit:-?\d|Cannot allocate a cluster id|permission denied|Received .DENIED"
    r"|Unable to commit transaction, SCHEDD:\d",
    re.IGNORECASE,
)
"""The schedd did nothing, and never will; the last is how a submission that its rules forbid ends."""
OLDEST = 10
"""The first version of HTCondor that has all that is used here."""
_AT_ONCE = 500
_LOOK_BACK_S = 7 * 86400


class HTCondorBackend(BatchBackend):
    """Jobs of one submission that ask for the same go as one cluster.

    Workspaces are on a file system that the machines of the pool share, or travel (see `transfer`). A
    job that HTCondor evicts is removed, so that each start is an attempt that drawbar knows of.
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
        self._schedd = self._client()
        self._alive: dict[str, set[str]] = {}
        """The jobs of each cluster, made or not, as the queue was seen last."""

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

    def refuses(self, spec: JobSpec) -> str | None:
        """Also what cannot be transferred, where files are."""
        why = transfer.refusal(spec) if self.options.transfer else None
        return why or super().refuses(spec)

    def launcher(self, attempts: Sequence[Attempt]) -> str:
        """See `BatchBackend.launcher`."""
        return transfer.launcher(attempts) if self.options.transfer else super().launcher(attempts)

    def collect(self, attempt: Attempt, place: Submitted) -> None:
        """Unpack what HTCondor brought back."""
        if self.options.transfer:
            transfer.collect(attempt, place)

    def withdraw(self, place: Submitted) -> None:
        """Its input is not there any more."""
        if self.options.transfer:
            transfer.withdraw(place)

    def hand_over(self, batch: Batch) -> str:
        """One cluster."""
        if self.options.transfer:
            try:
                transfer.pack(batch.attempts, batch.directory)
            except OSError as error:
                raise Rejected(f"its files cannot be packed: {error}") from error
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
            **(dict(transfer.directives()) if self.options.transfer else {}),
            **self._materialization(batch),
            "job_max_vacate_time": str(int(self.options.grace_s)),
            **dict(zip(batch.directives[::2], batch.directives[1::2], strict=True)),
        }
        try:
            cluster: str = self._call("submit", lines=lines, count=len(batch.attempts))
        except BackendError as error:
            if _NEVER.search(str(error)):
                raise Rejected(str(error)) from error
            if _NOT_NOW.search(str(error)):
                raise Busy(str(error)) from error
            raise
        self._alive[cluster] = {f"{cluster}.{number}" for number in range(len(batch.attempts))}
        return cluster

    def _materialization(self, batch: Batch) -> dict[str, str]:
        most = self.options.max_materialize
        return {"max_materialize": str(most)} if most and len(batch.attempts) > most else {}

    def job_id(self, batch_id: str, index: int) -> str:
        """Numbers of jobs in a cluster begin with 0."""
        return f"{batch_id}.{max(0, index - 1)}"

    def queue(self) -> Iterable[Seen]:
        """One query of the schedd."""
        found = self._call("query", constraint=f"{ads.BATCH} =!= undefined", projection=ads.PROJECTION)
        seen = ads.queued(found, self.options.hold, self.options.hold_release_s)
        listed, alive = list(seen), defaultdict(set)
        for each in listed:
            alive[_cluster(each.native_id)].add(each.native_id)
        self._alive = dict(alive)
        return listed

    def history(self, names: Collection[str]) -> Iterable[Seen]:
        """One look at what the schedd remembers of the last week."""
        listed = ", ".join(f'"{name}"' for name in sorted(names))
        found = self._call(
            "history",
            constraint=f"member({ads.BATCH}, {{{listed}}})",
            projection=ads.PROJECTION,
            since=f"EnteredCurrentStatus < {int(time.time()) - _LOOK_BACK_S}",
        )
        return list(ads.ended(found))

    def stop(self, native_ids: Sequence[str]) -> None:
        """One action for each 500 jobs; a cluster of which nothing is to stay goes as one."""
        clusters: defaultdict[str, set[str]] = defaultdict(set)
        for each in native_ids:
            clusters[_cluster(each)].add(each)
        rest = chain.from_iterable(
            [cluster] if ids >= self._alive.get(cluster, {""}) else ids for cluster, ids in clusters.items()
        )
        while some := list(islice(rest, _AT_ONCE)):
            self._call("remove", ids=some, reason="removed by drawbar")

    def close(self) -> None:
        """See `Backend.close`."""
        super().close()
        self._schedd.close()

    def check_client(self) -> Sequence[Problem]:
        """The bindings, the schedd and its version, and whether it lets this user submit."""
        client = self._client()
        try:
            told = client.call("authorize")
            client.call("query", constraint="false", projection=["ClusterId"])
        except BackendError as error:
            return [
                Problem(
                    message=str(error),
                    hint="see CONDOR_CONFIG, your token for the pool, and the options schedd and pool",
                )
            ]
        finally:
            client.close()
        version = re.search(r"CondorVersion: (\d+)\.\S+", told["version"])
        if not told["allowed"]:
            return [
                Problem(
                    message=f"the schedd takes this user for {told['user'] or 'nobody'}, who may not submit",
                    hint="get a token of the pool, or ask its administrator",
                )
            ]
        if version is not None and int(version[1]) < OLDEST:
            return [Problem(message=f"the schedd has {version[0]}; drawbar needs version {OLDEST} or newer")]
        return []

    def _client(self) -> Schedd:
        where = self.options
        return Schedd(schedd=where.schedd, pool=where.pool, timeout_s=where.call_timeout_s)

    def _call(self, method: str, **arguments: Any) -> Any:
        """Ask the schedd, within the budget."""
        self.budget.take()
        return self._schedd.call(method, **arguments)


def _cluster(native_id: str) -> str:
    return native_id.partition(".")[0]


def _escaped(text: str) -> str:
    """A path as it may stand in a submit description, where `$(...)` is replaced."""
    if not text.isprintable():
        raise Rejected(f"HTCondor takes no control characters in a path: {text!r}")
    return text.replace("$", "$(DOLLAR)")
