"""Snakemake's executor that gives its jobs to drawbar.

All of it happens in one thread. Snakemake's scheduler sleeps on a semaphore until a job has ended;
`Pump` takes the semaphore's place and waits for drawbar's jobs there. So a job's end is heard of at
once, nothing polls, and the job client has the one thread that it wants. Rules that Snakemake runs
itself (`localrules`) do so in threads of its own, which interrupt the wait.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from drawbar.engine import Executed, JobClient, Lookup, Ticket
from drawbar.errors import DrawbarError
from drawbar.model import JobResult, JobSpec, Reason
from snakemake.exceptions import WorkflowError, print_exception
from snakemake.logging import logger
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode, ExecutorSettingsBase

from drawbar_snakemake import snapshot
from drawbar_snakemake.log import NESTED_TAIL_LINES, RunLog, tail
from drawbar_snakemake.specs import Specs, members, step_of

if TYPE_CHECKING:
    from drawbar_snakemake.engine import SnakemakeOptions
    from drawbar_snakemake.sources import Sources

NAME = "drawbar"


@dataclass
class Failure:
    """A job that failed, for the error of the run."""

    rule: str
    message: str
    result: JobResult | None = None

    def __str__(self) -> str:
        return f"rule {self.rule}: {self.message}"


class ExecutorSettings(ExecutorSettingsBase):  # type: ignore[misc]
    """What the executor works with. `failures` are the jobs that have failed, by identity; `environment`
    is that of the process before the Snakefile was executed.

    Plain attributes and no dataclass fields: of those Snakemake would make command line options.
    """

    def __init__(
        self,
        client: JobClient,
        options: SnakemakeOptions,
        log: RunLog,
        environment: Mapping[str, str],
        sources: Sources,
    ) -> None:
        self.client = client
        self.options = options
        self.log = log
        self.environment = environment
        self.sources = sources
        self.failures: dict[str, Failure] = {}


@dataclass
class _Asked:
    """A job of Snakemake's that drawbar has been asked for."""

    job: Any
    spec: JobSpec
    ticket: Ticket | None = None
    ready: bool = False
    """It is prepared for the attempt that comes next."""


class Pump:
    """In place of the semaphore on which Snakemake's scheduler waits.

    Several releases are one wakening: a round of the scheduler handles all jobs that have ended.
    """

    def __init__(self, inner: threading.Semaphore, executor: Executor) -> None:
        self._inner = inner
        self._executor = executor
        self._waiting = False

    def release(self) -> None:
        """Something has happened; any thread may say so."""
        self._inner.release()
        if self._waiting:
            self._executor.client.interrupt()

    def acquire(self) -> None:
        """Wait until something has happened, with drawbar's jobs or with Snakemake's own."""
        while not self._taken():
            if self._executor.running:
                self._wait()
            else:
                self._inner.acquire()
                self._taken()
                return

    def _wait(self) -> None:
        """Wait for a job to end, and take all others that have ended by then; or for an interrupt."""
        client = self._executor.client
        self._waiting = True
        try:
            executed = None if self._inner._value else client.wait()
        finally:
            self._waiting = False
        if executed is not None:
            client.interrupt()  # comes after the ends that are known by now
        while executed is not None:
            self._executor.report(executed)
            executed = client.wait()

    def _taken(self) -> bool:
        taken = False
        while self._inner.acquire(blocking=False):
            taken = True
        return taken


class Executor(RealExecutor):  # type: ignore[misc]
    """Runs the jobs of one workflow through a `JobClient`."""

    def __post_init__(self) -> None:
        """Called by the base class when it is set up."""
        settings: ExecutorSettings = self.executor_settings
        self.client: JobClient = settings.client
        self.log: RunLog = settings.log
        self.failures = settings.failures
        self.specs = Specs(self, settings)
        self.running: dict[str, _Asked] = {}
        self._ended: dict[Any, _Asked] = {}
        self._asked: dict[str, _Asked] = {}
        self._pump: Pump | None = None
        self.workflow.scheduling_settings.scheduler = "greedy"  # of nested ones, which do not know ours
        self._watch_temporary_files()

    # what Snakemake calls

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Submit jobs. Whatever goes wrong with one of them is that job's error, and reported."""
        if self._pump is None:
            scheduler = self.workflow.scheduler
            self._pump = scheduler._open_jobs = Pump(scheduler._open_jobs, self)
        asked = []
        # A full shadow directory follows every link, so it is made before there are others to walk into.
        # Then jobs are asked for by their priority, since what waits for a place waits in that order.
        for job in sorted(jobs, key=_order):
            try:
                self.run_job_pre(job)
                asked.append(_Asked(job, self._spec(job)))
            except Exception as error:
                self._refuse(job, error)
        asked = self.workflow.async_run(self._make_ready(self._look_up(asked)))
        if asked:
            self._asked.update((each.spec.identity, each) for each in asked)
            tickets = self.client.submit([each.spec for each in asked], self._prepare)
            for each, ticket in zip(asked, tickets, strict=True):
                each.ticket = ticket
                self._submitted(each)
        self.client.progress(len(self.workflow.dag), self.log.done)  # more, since a checkpoint has ended

    def run_job(self, job: Any) -> None:
        """Submit one job."""
        self.run_jobs([job])

    def run_job_pre(self, job: Any) -> None:
        """Say what runs, and why. (Snakemake's own words would render the command four times.)"""
        for each in members(job):
            if each.rule.message:
                logger.info(each.message)
            wildcards = "".join(f", {name}={value}" for name, value in each.wildcards_dict.items())
            reason = self.dag.reason(each)
            self._say(f"rule {each.rule.name}{wildcards} (jobid {each.jobid}): {reason}", "snakemake.logging")

    def handle_job_success(self, job: Any) -> None:
        """Snakemake has collected the outputs of a job: from now on it is remembered."""
        ended = self._ended.pop(job, None)
        if ended is not None and ended.ticket is not None:
            self.client.accept(ended.ticket, self.specs.collected(job))
        self._say(f"{step_of(job)} job is finished. job_id: {job.jobid}")

    def handle_job_error(self, job: Any) -> None:
        """What a job left is not what its rule promises, or it failed and that was reported before."""
        ended = self._ended.pop(job, None)
        if ended is not None:
            message = self.log.errors[-1] if self.log.errors else "its outputs are not as its rule says"
            if ended.ticket is not None:
                missing = "MissingOutputException" in message
                reason = Reason.MISSING_OUTPUT if missing else Reason.COLLECTION
                self.client.reject(ended.ticket, message, reason)
            self.failures[ended.spec.identity] = Failure(step_of(job), message)

    def cancel(self) -> None:
        """Stop everything that is in flight, and wait for it."""
        self.client.cancel([each.ticket for each in self.running.values() if each.ticket])
        while self.running:
            executed = self.client.wait()
            if executed is not None:
                del self.running[executed.ticket.identity]

    def shutdown(self) -> None:
        """Nothing is in flight any more."""

    @property
    def cores(self) -> str:
        """What a nested Snakemake may use, in general; each is given its own number."""
        return "all"

    def get_job_args(self, job: Any, **kwargs: Any) -> str:
        """A nested Snakemake scales nothing down: its job has the threads that it has here."""
        arguments: str = super().get_job_args(job, **kwargs, cores=max(1, job.threads))
        return arguments

    def get_exec_mode(self) -> ExecMode:
        """A nested Snakemake leaves the end of its job to this one."""
        return ExecMode.REMOTE

    def get_python_executable(self) -> str:
        """What starts the nested Snakemake that is being specified: its interpreter, and our program."""
        starter = snapshot.starter(Path(self.workflow.sourcecache.runtime_cache_path))
        return f"{self.specs.python} {shlex.quote(str(starter))}"

    # what the pump calls

    def report(self, executed: Executed) -> None:
        """A job has ended."""
        self._report(self.running.pop(executed.ticket.identity), executed.result)

    # how it is done

    def _spec(self, job: Any) -> JobSpec:
        """The job's specification, as the try after the last one of this start."""
        spec = self.specs.spec(job)
        if last := self._asked.get(spec.identity):
            spec = replace(spec, try_number=last.spec.try_number + 1)
        self.client.key(spec)  # an input that cannot be read is this job's error
        return spec

    def _look_up(self, asked: Sequence[_Asked]) -> list[_Asked]:
        """What is known of the jobs, before anything is prepared for them.

        A try whose outputs were deleted on purpose does not help when somebody needs them now: the
        next one is looked up.
        """
        known = []
        while asked:
            passed = []
            tickets = self.client.lookup([each.spec for each in asked])
            for each, ticket in zip(asked, tickets, strict=True):
                each.ticket = ticket
                hit = ticket.result if ticket.found is Lookup.HIT else None
                if hit is not None and hit.ok and self.specs.gone(each.job):
                    each.spec = replace(each.spec, try_number=each.spec.try_number + 1)
                    passed.append(each)
                else:
                    known.append(each)
            asked = passed
        return known

    async def _make_ready(self, asked: Sequence[_Asked]) -> list[_Asked]:
        """Prepare what is going to run, where a failure is still the job's own error; the others are left."""
        ready = []
        for each in asked:
            assert each.ticket is not None
            if each.ticket.found is Lookup.RUNNING and self.specs.shadowed(each.job):
                each.job.shadow_dir = each.spec.directory
            try:
                if each.ticket.found is Lookup.MISS:
                    await self._prepare_outputs(each)
                    each.ready = True
                ready.append(each)
            except Exception as error:
                self._refuse(each.job, error)
        return ready

    def _prepare(self, spec: JobSpec) -> None:
        """Prepare for an attempt, unless that is done."""
        asked = self._asked[spec.identity]
        if not asked.ready:
            self.workflow.async_run(self._prepare_outputs(asked))
        asked.ready = False
        self.specs.write_script(spec)

    async def _prepare_outputs(self, asked: _Asked) -> None:
        """Have Snakemake clear old outputs and make directories; a nested one does it for itself."""
        job, place = asked.job, asked.spec.directory
        if not self.specs.direct(job):
            for each in members(job):
                await each.check_protected_output()
            return
        await job.prepare()
        if job.shadow_dir:
            shutil.rmtree(place, ignore_errors=True)
            Path(job.shadow_dir).rename(place)
            job.shadow_dir = place

    def _submitted(self, asked: _Asked) -> None:
        job, ticket = asked.job, asked.ticket
        assert ticket is not None
        self._say(f"Job '{step_of(job)}' received, command: {self.specs.command(asked.spec)}")
        self.report_job_submission(SubmittedJobInfo(job, external_jobid=asked.spec.identity))
        if ticket.found is Lookup.HIT:
            assert ticket.result is not None, "a hit has its result"
            self._report(asked, ticket.result)
        else:
            self.running[asked.spec.identity] = asked

    def _report(self, asked: _Asked, result: JobResult) -> None:
        """Tell Snakemake how a job ended; its own part comes in the next round of its scheduler."""
        ticket, info = asked.ticket, SubmittedJobInfo(asked.job)
        assert ticket is not None
        if result.ok:
            self.failures.pop(asked.spec.identity, None)
            if ticket.found is not Lookup.HIT:
                self._ended[asked.job] = asked
            if ticket.found is Lookup.RUNNING and self.specs.shadowed(asked.job):
                _undo_moves(asked.job)
            self.report_job_success(info)
            return
        if result.reason is Reason.CANCELLED:
            self.workflow.scheduler._user_kill = "graceful"
        message = failure_message(asked.job, result, nested=not self.specs.direct(asked.job))
        self.failures[asked.spec.identity] = Failure(step_of(asked.job), message, result)
        self.report_job_error(info, msg=message)

    def _refuse(self, job: Any, error: Exception) -> None:
        """A job that could not be submitted has failed."""
        if isinstance(error, DrawbarError):
            message = str(error)
        else:
            if not isinstance(error, WorkflowError):
                traceback.print_exception(error)
            print_exception(error, self.workflow.linemaps)
            message = self.log.errors[-1] if self.log.errors else str(error)
        self.failures[self.specs.identity(job)] = Failure(step_of(job), message)
        self.report_job_error(SubmittedJobInfo(job), msg=message)

    def _watch_temporary_files(self) -> None:
        """Tell the client of the temp() files that Snakemake deletes."""
        delete = self.dag.handle_temp

        async def handle_temp(job: Any) -> None:
            before = [] if job.is_group() else self.specs.temporary(job)
            await delete(job)
            gone = [path for path in before if not path.exists()]
            if gone:
                self.client.consumed(gone)

        self.dag.handle_temp = handle_temp

    def _say(self, message: str, source: str = "drawbar.snakemake") -> None:
        first, *more = message.splitlines()
        self.client.log(source, "INFO", f"{first} …" if more else first)


def _order(job: Any) -> tuple[bool, float]:
    return job.is_group() or job.rule.shadow_depth != "full", -job.priority


def failure_message(job: Any, result: JobResult, *, nested: bool) -> str:
    """How a job failed: its end, its log files, its last words."""
    how = f"failed ({result.reason})"
    if result.reason is Reason.EXIT_CODE:
        how = f"ended with exit code {result.exit_code}"
    elif result.reason is Reason.CANCELLED:
        how = "was cancelled"
    lines = [f"the job {how}"]
    if result.message:
        lines.append(result.message)
    for path in dict.fromkeys(str(path) for each in members(job) for path in each.log):
        lines += [f"its log {path}:", *(f"  {line}" for line in tail(path))]
    if result.stderr is not None:
        words = tail(result.stderr, NESTED_TAIL_LINES) if nested else tail(result.stderr)
        lines += [f"its standard error {result.stderr}:", *(f"  {line}" for line in words)]
    return "\n".join(lines)


def _undo_moves(job: Any) -> None:
    """Let a shadow directory seem as the job left it, when a killed engine had begun to empty it.

    Snakemake moves outputs out of it one by one; those it finds to be links to where they belong, it
    leaves alone.
    """
    for path in (*job.output, *job.log):
        inside = Path(job.shadow_dir, path)
        if not os.path.lexists(inside) and os.path.lexists(path):
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.symlink_to(os.path.relpath(path, inside.parent))


def register() -> None:
    """Make the executor known to Snakemake in this process, under `NAME`."""
    common = CommonSettings(
        non_local_exec=True,
        implies_no_shared_fs=False,
        job_deploy_sources=False,
        pass_group_args=True,
        pass_envvar_declarations_to_cmd=False,
        auto_deploy_default_storage_provider=False,
    )
    module = SimpleNamespace(common_settings=common, Executor=Executor, ExecutorSettings=ExecutorSettings)
    ExecutorPluginRegistry().register_plugin(NAME, module)
