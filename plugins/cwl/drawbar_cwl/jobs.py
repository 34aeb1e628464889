"""One invocation of a tool: its spec, its staging, and the collection of what it made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cwltool.errors import WorkflowException
from cwltool.job import JobBase, relink_initialworkdir
from cwltool.pathmapper import PathMapper
from cwltool.process import stage_files
from drawbar.model import JobResult, JobSpec, Mount, Resources, RetryPolicy
from schema_salad.ref_resolver import file_uri, uri_file_path

from drawbar_cwl.canonical import Canonical
from drawbar_cwl.context import Context

if TYPE_CHECKING:
    from drawbar_cwl.tools import Tool

_OUT = "out:"
"""How the locations of a job's own outputs begin where its outputs are remembered."""


class Job(JobBase):
    """An invocation of a tool. Nothing is touched before `prepare`."""

    def __init__(
        self,
        builder: Any,
        joborder: Any,
        make_path_mapper: Any,
        requirements: Any,
        hints: Any,
        name: str,
        *,
        tool: Tool,
        context: Context,
    ) -> None:
        super().__init__(builder, joborder, make_path_mapper, requirements, hints, name)
        self.tool = tool
        self.context = context
        self.identity = "/".join(context.identity)
        self.step = "/".join(context.step)
        self._extra: dict[str, str] = {}
        """Where on the host things are that a container has outside of its directories."""

    @property
    def inplace_update(self) -> bool:
        """Whether files are changed where they are: only those that jobs of this run made.

        A replay can make such a file again. What the user gave is copied, which the standard allows.
        """
        if not self._asks_inplace:
            return False
        made = f"{file_uri(self._all_jobs)}/"
        writable = [each for each in self.generatefiles["listing"] if each.get("writable")]
        return all(str(each.get("location", "")).startswith((made, "_:")) for each in writable)

    @inplace_update.setter
    def inplace_update(self, value: bool) -> None:
        self._asks_inplace = value

    @cached_property
    def directory(self) -> str:
        """The job's private directory."""
        return os.path.dirname(self.outdir)  # noqa: PTH120 (a text)

    def run(self, runtimeContext: Any, tmpdir_lock: Any = None) -> None:  # noqa: N803
        """Ask for the job; its end is told later."""
        self.context.execution.ask(self)

    def spec(self) -> JobSpec:
        """The job for drawbar. Raises `WorkflowException` when it cannot be run."""
        self._find_inputs()
        if not self.command_line:
            raise WorkflowException(
                "the command line is empty; give a baseCommand, arguments, or an input with an inputBinding"
            )
        stdin = self._stdin()
        placement = self.tool.place(self.context, self._resources(), self.mpi_procs)
        declared = {key: value for key, value in self.environment.items() if key not in ("HOME", "TMPDIR")}
        own = self.directory.rpartition("/")[2]
        canonical = Canonical(self.context.execution.places, own, self.pathmapper)
        form: dict[str, Any] = {
            "command": canonical.of([str(each) for each in self.command_line], "command"),
            "order": canonical.of(self.joborder, "inputs"),
            "workdir": canonical.of(self.generatefiles["listing"], "workdir"),
            "environment": canonical.of(declared, "environment"),
            "streams": canonical.of([self.stdin, self.stdout, self.stderr], "streams"),
            "tool": self.tool.canonical,
            "image": self.tool.image[0],
            "container": placement.container,
        }
        if self.tool.uses_resources:
            form["resources"] = dict(self.builder.resources)
        if self.mpi_procs:
            form["processes"] = self.mpi_procs
        launcher = self.tool.launcher(self.context.execution.options, placement, self.mpi_procs)
        good, temporary = self._codes()
        reuse, _ = self.get_requirement("WorkReuse")
        return JobSpec(
            identity=self.identity,
            name=self.identity,
            step=self.step,
            argv=(*launcher, *(str(each) for each in self.command_line)),
            directory=self.builder.outdir if placement.container else self.outdir,
            canonical=form,
            image=placement.image if placement.container else None,
            image_required=self.tool.image[1],
            environment=dict(self.environment),
            mounts=tuple(self._mounts()) if placement.container else (self._own(),),
            entry_point=placement.container,
            stdin=stdin,
            stdout=self._stream(self.stdout),
            stderr=self._stream(self.stderr),
            inputs=tuple(canonical.inputs.values()),
            outputs=(self.outdir,),
            collection_root=self.outdir,
            resources=placement.resources,
            workspace=self.tool.workspace,
            network=self.networkaccess or not placement.container,
            success_codes=good,
            temporary_codes=temporary,
            retry=self._retry(),
            hints=placement.hints,
            backend=placement.backend,
            reusable=not self.inplace_update and bool(not reuse or reuse.get("enableReuse", True)),
        )

    def prepare(self) -> None:
        """Stage inputs and the initial working directory; what an earlier attempt left goes first."""
        if os.path.lexists(self.directory):
            shutil.rmtree(self.directory)
        for place in (self.outdir, self.tmpdir):
            os.makedirs(place)  # noqa: PTH103 (once for every job)
        for stream in (self.stdout, self.stderr):
            if stream is not None and "/" in stream:
                Path(self.outdir, stream).parent.mkdir(parents=True, exist_ok=True)
        if self.pathmapper.files():
            stage_files(self._visible(self.pathmapper), ignore_writable=True, symlink=True)
        if self.generatemapper is not None:
            on_host = self._visible(self._on_host(self.generatemapper))
            stage_files(on_host, ignore_writable=self.inplace_update, symlink=True)
            relink_initialworkdir(on_host, self.outdir, self.outdir, inplace_update=self.inplace_update)

    def collect(self, result: JobResult) -> Any:
        """The output object. Raises `WorkflowException` when the outputs are not what was promised."""
        for mapper in (self.pathmapper, self.generatemapper):
            if mapper is not None:
                _mark_staged(mapper)
        if self.generatemapper is not None:
            on_host = self._on_host(self.generatemapper)
            relink_initialworkdir(on_host, self.outdir, self.outdir, inplace_update=self.inplace_update)
        outputs = self.collect_outputs(self.outdir, result.exit_code or 0)
        self._check_links(outputs)
        with os.scandir(self.tmpdir) as left:
            if any(left):
                shutil.rmtree(self.tmpdir, ignore_errors=True)
        return outputs

    def release(self) -> None:
        """Say that the job reads its inputs no more, where its outputs are not collected."""
        readers = self.collect_outputs.keywords.get("readers") or {}  # type: ignore[union-attr]
        manager = self.builder.mutation_manager
        for reader in readers.values():
            if manager is not None:
                manager.release_reader(self.collect_outputs.keywords["jobname"], reader)  # type: ignore[union-attr]

    def deliver(self, outputs: Any, status: str) -> None:
        """Hand the output object on to what waits for it in the workflow."""
        if self.output_callback is not None:
            self.output_callback(outputs, status)
        self.context.wake()

    def stored(self, outputs: Any) -> Any:
        """The output object as it is remembered: with locations relative to the job's directory."""
        return _relocated(outputs, f"{file_uri(self.outdir)}/", _OUT)

    def restored(self, stored: Any) -> Any:
        """The output object that was remembered."""
        return _relocated(stored, _OUT, f"{file_uri(self.outdir)}/")

    # how it is done

    @property
    def _all_jobs(self) -> str:
        """Where the private directories of all jobs are."""
        return os.path.dirname(self.directory)  # noqa: PTH120 (a text)

    def _required_env(self) -> dict[str, str]:
        return {"HOME": self.builder.outdir, "TMPDIR": self.builder.tmpdir}

    def _find_inputs(self) -> None:
        """Check that inputs are there, and say where the initial working directory's files go."""
        for location in self.pathmapper.files():
            entry = self.pathmapper.mapper(location)
            if entry.type == "File" and entry.staged and not Path(entry.resolved).is_file():
                raise WorkflowException(
                    f"Input file {location} (at {entry.resolved}) not found or is not a regular file."
                )
        if self.generatefiles["listing"]:
            self.generatemapper = self.make_path_mapper(
                self.generatefiles["listing"], self.builder.outdir, self.context, False
            )

    def _stdin(self) -> str | None:
        if self.stdin is None:
            return None
        found = self.pathmapper.reversemap(self.stdin)
        if found is None:
            raise WorkflowException(f"standard input {self.stdin} is not among the inputs")
        return self.stdin

    def _stream(self, name: str | None) -> str | None:
        return f"{self.outdir}/{name}" if name else None

    def _codes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Exit codes that are successes, and those that are temporary failures."""
        good, temporary = set(self.successCodes), set(self.temporaryFailCodes)
        if 0 not in temporary | set(self.permanentFailCodes):
            good.add(0)
        return tuple(sorted(good)), tuple(sorted(temporary - good))

    def _retry(self) -> RetryPolicy:
        if self.inplace_update:
            # what an attempt changed in place cannot be undone
            return RetryPolicy(infrastructure=0)
        return RetryPolicy(temporary=self.context.execution.options.retries)

    def _resources(self) -> Resources:
        """What the tool asks for; what cwltool assumes where it says nothing is no wish."""
        asked, _ = self.get_requirement("ResourceRequirement")
        asked = asked or {}
        given = self.builder.resources
        disk = sum(given[f"{kind}Size"] for kind in ("tmpdir", "outdir") if _asks(asked, kind))
        return Resources(
            cpus=max(given["cores"], 0.01) if _asks(asked, "cores") else 1,
            memory_mib=int(given["ram"]) or None if _asks(asked, "ram") else None,
            disk_mib=int(disk) or None,
            gpus=int(given.get("cudaDeviceCount", 0)),
            walltime_s=self.timelimit or None,
        )

    def _own(self) -> Mount:
        """The job's directory: where it works, and where its inputs are staged."""
        return Mount(source=self.directory, target=self.directory)

    def _mounts(self) -> Iterator[Mount]:
        """What a container sees besides the workspace; all jobs' directories, and its own to write in."""
        yield Mount(source=self._all_jobs, target=self._all_jobs, read_only=True)
        yield self._own()
        if self.builder.outdir != self.outdir:
            yield Mount(source=self.outdir, target=self.builder.outdir)
        if self.generatemapper is not None:
            self._on_host(self.generatemapper)
        for target, source in self._extra.items():
            yield Mount(source=source, target=target)
        if self.inplace_update:
            for entry in self.generatemapper or ():
                if entry.type in ("WritableFile", "WritableDirectory"):
                    yield Mount(source=entry.resolved, target=entry.resolved)

    def _on_host(self, mapper: PathMapper) -> PathMapper:
        """The mapper with the targets where they are on the host."""
        inner = self.builder.outdir
        if inner == self.outdir and all(entry.target.startswith(f"{inner}/") for entry in mapper):
            return mapper
        translated = PathMapper([], "", "")
        for number, (key, entry) in enumerate(mapper.items()):
            if entry.target.startswith(f"{inner}/"):
                target = self.outdir + entry.target[len(inner) :]
            else:
                target = f"{self.directory}/extra/{number}/{Path(entry.target).name}"
                self._extra[entry.target] = target
            translated.update(key, entry.resolved, target, entry.type, entry.staged)
        return translated

    def _visible(self, mapper: PathMapper) -> PathMapper:
        """The mapper with copies of what the job's container would not see."""
        if not self.context.use_container:
            return mapper
        copies = self.context.execution.copies
        changed = PathMapper([], "", "")
        for key, entry in mapper.items():
            literal = entry.type in ("CreateFile", "CreateWritableFile")
            outside = entry.staged and not literal and copies.wanted(entry.resolved)
            source = copies.of(entry.resolved) if outside else entry.resolved
            changed.update(key, source, entry.target, entry.type, entry.staged)
        return changed

    def _check_links(self, outputs: Any) -> None:
        """Refuse outputs that are links out of the job's directory to what is no input of it."""
        inputs: set[str] | None = None
        for file in _files(outputs):
            location = str(file.get("location", ""))
            if not location.startswith("file://"):
                continue
            path = uri_file_path(location)
            if path.startswith(f"{self.outdir}/") and not _linked(path, self.outdir):
                continue
            path, real = os.path.realpath(path), os.path.realpath(self.outdir)
            if path == real or path.startswith(f"{real}/"):
                continue
            if inputs is None:
                mappers = [mapper for mapper in (self.pathmapper, self.generatemapper) if mapper is not None]
                inputs = {
                    os.path.realpath(entry.resolved) for each in mappers for entry in self._visible(each)
                }
            if path not in inputs and not any(str(each) in inputs for each in Path(path).parents):
                raise WorkflowException(
                    f"the output {uri_file_path(location)} is a link to {path}, which is neither in the "
                    "output directory nor an input"
                )


def _linked(path: str, root: str) -> bool:
    """Whether a path below `root` goes through a link."""
    while path != root:
        if os.path.islink(path):  # noqa: PTH114 (once for every output)
            return True
        path = os.path.dirname(path)  # noqa: PTH120
    return False


def _asks(requirement: Mapping[str, Any], kind: str) -> bool:
    return bool(requirement.get(f"{kind}Min") or requirement.get(f"{kind}Max"))


def _mark_staged(mapper: PathMapper) -> None:
    """Literal files are where they were staged, also when that was done by an earlier start."""
    for key, entry in list(mapper.items()):
        if entry.type in ("CreateFile", "CreateWritableFile") and entry.resolved != entry.target:
            mapper.update(key, entry.target, entry.target, entry.type, entry.staged)


def _files(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict):
        if value.get("class") in ("File", "Directory"):
            yield value
        for each in value.values():
            yield from _files(each)
    elif isinstance(value, list):
        for each in value:
            yield from _files(each)


def _relocated(value: Any, old: str, new: str) -> Any:
    """Plain data in which locations that begin with `old` begin with `new`."""
    if isinstance(value, dict):
        plain = {str(key): _relocated(each, old, new) for key, each in value.items()}
        location = plain.get("location")
        if isinstance(location, str) and f"{location}/".startswith(old):
            plain["location"] = new + location[len(old) :] if location.startswith(old) else new.rstrip("/")
        return plain
    if isinstance(value, list | tuple):
        return [_relocated(each, old, new) for each in value]
    return value
