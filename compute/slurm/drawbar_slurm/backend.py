"""The Slurm backend: command lines and the reading of answers; the rest is `drawbar.batch`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import ClassVar

from drawbar.backend import BackendFeature
from drawbar.batch import Batch, CommandLineBackend
from drawbar.batchcalls import Busy, Done, Rejected
from drawbar.batchresults import Seen
from drawbar.errors import BackendError, Problem, Severity
from drawbar.model import JobSpec, Resources
from drawbar.options import Options as BaseOptions

from drawbar_slurm import states
from drawbar_slurm.options import SlurmHints, SlurmOptions, arguments, seconds

_NOT_NOW = re.compile(
    r"Unable to contact slurm controller|temporarily unable to accept|Resource temporarily unavailable"
    r"|Connection refused|standby mode|MaxSubmitJob|No buffer space|Unable to establish",
    re.IGNORECASE,
)
"""sbatch did nothing, and may do it later."""
_UNCLEAR = re.compile(
    r"timed out|Zero Bytes|Transport endpoint|Unexpected message|Communication connection|Broken pipe"
    r"|Connection reset|Protocol authentication|Invalid authentication|munge",
    re.IGNORECASE,
)
"""sbatch does not know what slurmctld did with its request, or may be allowed to make it later."""
_COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_OLDEST = (22, 5)
_AT_ONCE = 500
_WITHOUT_ASKING = 100
_HISTORY_AT_ONCE = 200


class SlurmBackend(CommandLineBackend):
    """Jobs of one submission that ask for the same go as one job array.

    Slurm's own requeueing is off, so that each start is an attempt that drawbar knows of.
    """

    name: ClassVar[str] = "slurm"
    api: ClassVar[int] = 1
    features: ClassVar[frozenset[BackendFeature]] = CommandLineBackend.features | {BackendFeature.GPUS}
    Options: ClassVar[type[BaseOptions]] = SlurmOptions
    Hints: ClassVar[type[BaseOptions]] = SlurmHints
    index_variable: ClassVar[str] = "SLURM_ARRAY_TASK_ID"
    own_group: ClassVar[str] = "*/job_*"
    client_variables: ClassVar[tuple[str, ...]] = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    client_environment: ClassVar[Mapping[str, str]] = {"SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}

    options: SlurmOptions

    def __init__(self, options: BaseOptions) -> None:
        super().__init__(options)
        self._largest: int | None = None
        self._accounting = True

    def resources(self, hints: BaseOptions, resources: Resources) -> Resources:
        """`slurm_time` is a wall time."""
        assert isinstance(hints, SlurmHints)
        if hints.time is None:
            return resources
        return replace(resources, walltime_s=seconds(hints.time, "slurm_time"))

    def directives(self, spec: JobSpec) -> tuple[str, ...]:
        """Options of sbatch."""
        hints = self.hints(spec)
        assert isinstance(hints, SlurmHints)
        return tuple(arguments(self.options, hints, spec.resources, self.options.grace_s))

    def largest_batch(self) -> int:
        """As the settings say, and less than MaxArraySize; while Slurm does not tell it, not many."""
        if self._largest is None:
            try:
                config = self._config()
            except BackendError:
                return min(self.options.batch_size, _WITHOUT_ASKING)
            match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
            # Numbers of tasks are below MaxArraySize, and ours begin with 1.
            self._largest = max(1, min(self.options.batch_size, int(match[1]) - 1 if match else 1))
        return self._largest

    def hand_over(self, batch: Batch) -> str:
        """One sbatch."""
        array = []
        if batch.array:
            throttle = f"%{self.options.throttle}" if self.options.throttle else ""
            array = [f"--array=1-{len(batch.attempts)}{throttle}"]
        done = self.commands.run(
            *("sbatch", "--parsable", f"--job-name={batch.name}", "--no-requeue", "--export=ALL"),
            *("--output=scheduler.log", "--open-mode=append", f"--chdir={batch.directory}"),
            *(*array, *batch.directives, batch.script),
            directory=batch.directory,
        )
        if done.code == 0 and (match := re.search(r"^(\d+)(?:;\S*)?\s*$", done.out, re.MULTILINE)):
            return match[1]
        if _NOT_NOW.search(done.err):
            raise Busy(done.words)
        if done.code <= 0 or _UNCLEAR.search(done.err):
            raise BackendError(f"sbatch: {done.words}", transient=True)
        raise Rejected(f"{done.words} (it was asked for {shlex.join(batch.directives)})")

    def queue(self) -> Iterable[Seen]:
        """One squeue, which also knows the jobs that ended in the last minutes."""
        done = self.commands.run(
            "squeue", "--noheader", f"--user={os.getuid()}", "--states=all", "-O", states.QUEUE_FIELDS
        )
        return states.queued(_good("squeue", done).out)

    def history(self, names: Collection[str]) -> Iterable[Seen]:
        """One sacct for each 200 batches; nothing where there is no accounting, or none at the moment."""
        seen: list[Seen] = []
        rest = iter(sorted(names))
        while self._accounting and (some := list(islice(rest, _HISTORY_AT_ONCE))):
            done = self.commands.run(
                *("sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-30days"),
                *(f"--name={','.join(some)}", f"--user={os.getuid()}", "-o", states.HISTORY_FIELDS),
            )
            if "accounting storage is disabled" in done.err.lower():
                self._accounting = False
                break
            seen += states.accounted(_good("sacct", done).out)
        return seen

    def stop(self, native_ids: Sequence[str]) -> None:
        """One scancel for each 500 jobs or arrays."""
        rest = iter(states.together(native_ids))
        while some := list(islice(rest, _AT_ONCE)):
            done = self.commands.run("scancel", "--quiet", *some)
            if done.code != 0 and (_NOT_NOW.search(done.err) or _UNCLEAR.search(done.err)):
                raise BackendError(f"scancel: {done.words}", transient=True)

    def check_client(self) -> Sequence[Problem]:
        """Commands and their version, the controller, the partition, and accounting."""
        path = self.commands.environment["PATH"]
        if missing := [name for name in _COMMANDS if shutil.which(name, path=path) is None]:
            return [
                Problem(
                    message=f"slurm: there is no {', '.join(missing)} here",
                    hint="install Slurm's client, or say where its commands are with `bin_directory`",
                )
            ]
        try:
            version = _good("sbatch", self.commands.run("sbatch", "--version")).out
            config = self._config()
            partitions = _good("sinfo", self.commands.run("sinfo", "--noheader", "-o", "%R")).out.split()
            list(self.queue())
        except BackendError as error:
            return [
                Problem(
                    message=f"slurm: {error}",
                    hint="does slurmctld run, and is SLURM_CONF (/etc/slurm/slurm.conf) of this cluster?",
                )
            ]
        return [
            *self._check_version(version),
            *self._check_partition(partitions),
            *self._check_accounting(config),
        ]

    def _check_version(self, text: str) -> Iterator[Problem]:
        match = re.search(r"(\d+)\.(\d+)", text)
        if match and (int(match[1]), int(match[2])) < _OLDEST:
            yield Problem(
                message=f"slurm: {text.strip()} is older than what drawbar is tested with "
                f"({_OLDEST[0]}.{_OLDEST[1]:02})",
                severity=Severity.WARNING,
            )

    def _check_partition(self, partitions: Sequence[str]) -> Iterator[Problem]:
        wanted = self.options.partition.split(",") if self.options.partition else []
        if unknown := [each for each in wanted if each not in partitions]:
            yield Problem(
                message=f"slurm: there is no partition {', '.join(unknown)}",
                hint=f"there are: {', '.join(sorted(set(partitions)))}",
            )

    def _check_accounting(self, config: str) -> Iterator[Problem]:
        none = r"^AccountingStorageType\s*=\s*(\(null\)|accounting_storage/none)"
        why = "there is no accounting" if re.search(none, config, re.MULTILINE) else ""
        if not why:
            try:
                self.history(["db-check"])
                why = "" if self._accounting else "sacct says that accounting is disabled"
            except BackendError as error:
                why = f"accounting does not answer ({error})"
        if why:
            yield Problem(
                message=f"slurm: {why}, so the reason of a job's death is known only for a few minutes "
                "(MinJobAge)",
                severity=Severity.WARNING,
            )

    def _config(self) -> str:
        return _good("scontrol", self.commands.run("scontrol", "show", "config")).out


def _good(name: str, done: Done) -> Done:
    if done.code != 0:
        raise BackendError(f"{name}: {done.words}", transient=True)
    return done
