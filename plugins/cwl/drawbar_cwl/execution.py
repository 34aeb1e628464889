"""Runs a loaded workflow: cwltool says which jobs there are, drawbar runs them, on one thread."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import threading
import time
from collections import Counter
from logging import ERROR, INFO, Handler, LogRecord, getLogger
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cwltool.errors import UnsupportedRequirement, WorkflowException
from cwltool.mutation import MutationManager
from cwltool.process import relocateOutputs
from cwltool.stdfsaccess import StdFsAccess
from cwltool.update import ORIGINAL_CWLVERSION
from drawbar.engine import JobClient, Lookup, Source, StepFailed, Ticket
from drawbar.errors import DrawbarError, Problem, Unsupported
from drawbar.lastlines import last_lines
from drawbar.model import JobResult, JobSpec, Outputs, Reason
from schema_salad.exceptions import ValidationException
from schema_salad.ref_resolver import file_uri

from drawbar_cwl import javascript, linear, shortcuts
from drawbar_cwl.canonical import Places
from drawbar_cwl.context import Context
from drawbar_cwl.copies import Copies
from drawbar_cwl.jobs import Job
from drawbar_cwl.loading import Loaded, plain
from drawbar_cwl.options import CwlOptions
from drawbar_cwl.overview import tools
from drawbar_cwl.replacing import replaced
from drawbar_cwl.shortcuts import visit_class

RESULTS = "outputs"
"""Where in the workspace the results of a workflow are put, as REANA has it."""
MOST_IN_FLIGHT = 1000
"""So many jobs exist at a time; the others of a scatter are made when these have ended."""
_MOST_ERRORS = 10
_BATCH = 200
_BATCH_S = 0.05
_REQUIREMENTS = "https://w3id.org/cwl/cwl#requirements"
_COMPLETED = re.compile(r"\[step (\S+)\] completed")

_END = object()

_logger = getLogger("cwltool")


class _Stop(Exception):
    """A job failed, and the user wants no others."""


class Execution:
    """One execution of one workflow."""

    def __init__(self, loaded: Loaded, source: Source, options: CwlOptions, jobs: JobClient) -> None:
        self.jobs = jobs
        self.options = options
        copies = jobs.directory("-")
        private = copies.parent
        loaded.access.allow(private)
        self.copies = Copies(copies, (private, jobs.workspace))
        self.places = Places(jobs.workspace, private)
        self._loaded = loaded
        self._source = source
        self._waiting: list[Job] = []
        self._since = 0.0
        self._in_flight: dict[str, tuple[Job, Ticket]] = {}
        self._rounds: Counter[tuple[Any, ...]] = Counter()
        self._ends: list[tuple[Any, str]] = []
        self._failure: StepFailed | None = None

    def run(self) -> Outputs:
        """Drive the workflow to its end. Raises `StepFailed`, and `Unsupported` for what cannot be run."""
        javascript.provide()
        context = self._context()
        log = _Log(self.jobs)
        _logger.addHandler(log)
        try:
            with replaced([*linear.replacements(), *shortcuts.replacements()]):
                return self._results(self._drive(context, log), context)
        finally:
            _logger.removeHandler(log)

    # for contexts, tools and jobs

    def ask(self, job: Job) -> None:
        """Have a job run, with the next batch."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(job)

    def rounds(self, identity: tuple[Any, ...]) -> int:
        """How often a looped step has been entered, this time included."""
        self._rounds[identity] += 1
        return self._rounds[identity]

    # how it is done

    def _context(self) -> Context:
        access = self._loaded.access
        return Context(
            self,
            {
                "basedir": str(self._source.root),
                "make_fs_access": access.files(),
                "path_mapper": access.paths(),
                "on_error": self.options.on_error,
                "mutation_manager": MutationManager(),
                "toplevel": True,
                "workflow_eval_lock": threading.Condition(threading.RLock()),
                "rm_tmpdir": False,
                "eval_timeout": self.options.eval_timeout_s,
            },
        )

    def _drive(self, context: Context, log: _Log) -> Any:
        process, order = self._loaded.process, dict(self._loaded.order)
        try:
            for requirement in _injected(process, order):
                process.requirements.append(requirement)
            for name, tool in tools(process):
                if tool.mpi[0] is not None:
                    tool.place(context.inside(tuple(name.split("/"))))
            self._loop(process.job(order, self._ended, context), context)
        except _Stop:
            self._wind_down()
        except UnsupportedRequirement as error:
            self._cancel()
            raise Unsupported(Problem(message=str(error))) from error
        except (WorkflowException, ValidationException) as error:
            self._wind_down(str(error))
        status = self._ends[0][1] if self._ends else "permanentFail"
        if self._failure is not None or status not in ("success", "skipped"):
            _logger.warning("Final process status is %s", status if self._ends else "permanentFail")
            if self._failure is not None:
                raise self._failure
            said = "\n".join(log.errors) or "the workflow cannot go on"
            raise StepFailed(_step_in(said), said)
        _logger.info("Final process status is %s", "success")
        return self._ends[0][0]

    def _loop(self, generator: Any, context: Context) -> None:
        while (job := _next(generator)) is not _END:
            if job is not None:
                job.run(context)
                full = (
                    len(self._waiting) >= _BATCH
                    or len(self._waiting) + len(self._in_flight) >= MOST_IN_FLIGHT
                )
                if self._waiting and (full or time.monotonic() - self._since > _BATCH_S):
                    self._submit()
                while len(self._in_flight) >= MOST_IN_FLIGHT:
                    self._wait()
            elif not self._submit() and not self._wait():
                break
        while self._submit() or self._wait():
            pass

    def _ended(self, outputs: Any, status: str) -> None:
        self._ends.append((outputs, status))

    def _submit(self) -> bool:
        """Hand over the jobs that wait for it; False when there are none."""
        waiting, self._waiting = self._waiting, []
        asked: dict[str, Job] = {}
        specs: list[JobSpec] = []
        for job in waiting:
            try:
                spec = job.spec()
            except UnsupportedRequirement:
                raise
            except WorkflowException as error:
                self._fail(job, f"step {job.step!r}: {error}")
                continue
            specs.append(spec)
            asked[spec.identity] = job
        tickets = self.jobs.submit(specs, lambda spec: asked[spec.identity].prepare()) if specs else []
        for ticket in tickets:
            job = asked[ticket.identity]
            if ticket.found is not Lookup.HIT:
                self._in_flight[ticket.identity] = (job, ticket)
        for ticket in tickets:
            if ticket.found is Lookup.HIT:
                job = asked[ticket.identity]
                job.release()
                job.deliver(job.restored(ticket.value), "success")
        return bool(waiting)

    def _wait(self) -> bool:
        """Take the next job that ended; False when none is in flight."""
        executed = self.jobs.wait()
        if executed is None:
            return False
        job, _ = self._in_flight.pop(executed.ticket.identity)
        if executed.result.ok:
            self._collect(job, executed.ticket, executed.result)
        else:
            job.release()
            temporary = executed.result.reason is Reason.TEMPORARY
            self._fail(job, self._report(job, executed.result), executed.result, temporary)
        return True

    def _collect(self, job: Job, ticket: Ticket, result: JobResult) -> None:
        try:
            outputs = job.collect(result)
        except (WorkflowException, OSError) as error:
            self.jobs.reject(ticket, str(error))
            self._fail(job, f"step {job.step!r}: {error}\nits files: {job.outdir}", result)
            return
        self.jobs.accept(ticket, [Path(job.outdir)], job.stored(outputs))
        self.jobs.log("cwltool", "INFO", f"[job {job.name}] completed success")
        job.deliver(outputs, "success")

    def _fail(self, job: Job, message: str, result: JobResult | None = None, temporary: bool = False) -> None:
        status = "temporaryFail" if temporary else "permanentFail"
        _logger.warning("[job %s] completed %s", job.name, status)
        if self._failure is None:
            self._failure = StepFailed(job.step, message, result)
        if self.options.on_error == "stop":
            raise _Stop
        job.deliver({}, status)

    def _cancel(self) -> None:
        """Stop what is in flight; what ends well all the same is remembered."""
        self.jobs.cancel([ticket for _, ticket in self._in_flight.values()])
        while (executed := self.jobs.wait()) is not None:
            job, _ = self._in_flight.pop(executed.ticket.identity)
            if executed.result.ok:
                try:
                    outputs = job.collect(executed.result)
                except (WorkflowException, OSError) as error:
                    self.jobs.reject(executed.ticket, str(error))
                else:
                    self.jobs.accept(executed.ticket, [Path(job.outdir)], job.stored(outputs))

    def _wind_down(self, message: str | None = None) -> None:
        self._waiting.clear()
        self._cancel()
        if self._failure is None and message is not None:
            self._failure = StepFailed(_step_in(message), message)

    def _results(self, outputs: Any, context: Context) -> Outputs:
        """Copy the results into the workspace; the output object tells where each one is."""
        if outputs is None:
            return Outputs()
        workspace = self.jobs.workspace
        place = workspace / RESULTS
        taken = plain(outputs)
        _clear(taken, place)
        found = relocateOutputs(
            taken, str(place), set(), "copy", _Results(place), self.options.checksums, linear.ResultsMapper
        )
        files: list[str] = []

        def finish(file: dict[str, Any]) -> None:
            for field in ("path", "nameext", "nameroot", "dirname", "http://commonwl.org/cwltool#generation"):
                file.pop(field, None)
            location = str(file["location"])
            if location.startswith("file://"):
                file["path"] = unquote(location.removeprefix("file://"))
                files.append(os.path.relpath(file["path"], workspace))

        visit_class(found, ("File", "Directory"), finish)
        return Outputs(files=tuple(files), value=found)

    def _report(self, job: Job, result: JobResult) -> str:
        """What to tell the user about a job that failed."""
        how = f"failed ({result.reason})"
        if result.reason in (Reason.EXIT_CODE, Reason.TEMPORARY):
            how = f"ended with exit code {result.exit_code}"
        elif result.reason is Reason.CANCELLED:
            how = "was cancelled"
        command = shlex.join(str(each) for each in job.command_line)
        shown = command if len(command) <= 200 else f"{command[:200]} …"
        where = "" if job.identity == job.step else f" ({job.identity})"
        lines = [f"step {job.step!r}{where}: the command {how}: {shown}"]
        if result.message:
            lines.append(result.message)
        stderr = f"{job.outdir}/{job.stderr}" if job.stderr else result.stderr
        if stderr is not None:
            lines += [f"  {line}" for line in last_lines(Path(stderr))]
            lines.append(f"its log: {stderr}")
        lines.append(f"its files: {job.outdir}")
        return "\n".join(lines)


class _Results(StdFsAccess):
    """How the final copy sees files: it has followed the links to its sources, and makes its targets."""

    def __init__(self, place: Path) -> None:
        super().__init__("")
        self._place = f"{place}/"
        self._real = f"{os.path.realpath(place)}/"

    def realpath(self, path: str) -> str:
        """The path, where the place of the results is without links."""
        return self._real + path.removeprefix(self._place) if path.startswith(self._place) else path


class _Log(Handler):
    """Writes what cwltool logs into the run's log; keeps the errors."""

    def __init__(self, jobs: JobClient) -> None:
        super().__init__(INFO)
        self.errors: list[str] = []
        self._jobs = jobs

    def emit(self, record: LogRecord) -> None:
        """Write one record, under the name of the step where it is about the end of one."""
        message = record.getMessage()
        if record.levelno >= ERROR and len(self.errors) < _MOST_ERRORS:
            self.errors.append(message)
        completed = _COMPLETED.match(message)
        thread = completed[1] if completed else "MainThread"
        self._jobs.log("cwltool", record.levelname, message, thread)


def _next(generator: Any) -> Any:
    """The next job that cwltool has; None when something has to end first, `_END` when there is none."""
    try:
        return next(generator, _END)
    except (WorkflowException, ValidationException, DrawbarError, _Stop):
        raise
    except Exception as error:
        raise WorkflowException(f"cwltool failed: {type(error).__name__}: {error}") from error


def _injected(process: Any, order: dict[str, Any]) -> Any:
    """The requirements that an input object adds."""
    given = order.get(_REQUIREMENTS, (process.metadata.get("cwl:defaults") or {}).get(_REQUIREMENTS))
    if given is not None and process.metadata.get(ORIGINAL_CWLVERSION) == "v1.0":
        raise WorkflowException(
            "`cwl:requirements` in the input object is not part of CWL v1.0. You can adjust to use "
            "`cwltool:overrides` instead; or you can set the cwlVersion to v1.1"
        )
    return given or ()


def _step_in(message: str) -> str:
    found = re.search(r"\[step ([^\]\s]+)\]|step '([^']+)'", message)
    return (found[1] or found[2]) if found else "workflow"


def _clear(outputs: Any, place: Path) -> None:
    """Remove what an earlier start put where these results go, so that a copy never meets a read-only one."""
    if not place.exists():
        return

    sources: set[str] = set()

    def clear(file: dict[str, Any]) -> None:
        name = file.get("basename")
        if isinstance(name, str) and name not in ("", ".", "..") and "/" not in name:
            path = place / name
            if file_uri(str(path)) in sources:
                return  # an input of the workflow that is its result as well
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    visit_class(outputs, ("File", "Directory"), lambda file: sources.add(str(file.get("location"))))
    visit_class(outputs, ("File", "Directory"), clear)
