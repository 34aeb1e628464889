"""Job specifications of Snakemake's jobs: what runs, where, and what its result depends on.

A job goes down one of two lanes. *Direct*: the command of a `shell:` rule, rendered here; where it
runs needs nothing but a shell. *Nested*: everything else, as `python -m snakemake` for the one job,
which needs the same Snakemake where it runs. (Rules that Snakemake calls local never come here.)
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawbar.engine import Placement
from drawbar.errors import Unsupported
from drawbar.identity import directory_name
from drawbar.model import Input, JobSpec, Resources
from snakemake import __version__ as snakemake_version
from snakemake.common.tbdstring import TBDString
from snakemake.exceptions import WorkflowError
from snakemake.io import is_flagged
from snakemake.settings.types import DeploymentMethod
from snakemake.shell import MAX_ARG_LEN

from drawbar_snakemake.code import described, program
from drawbar_snakemake.rendering import THREAD_VARIABLES, TMPDIR_VARIABLES, command_of, resources_of
from drawbar_snakemake.sources import text_of

if TYPE_CHECKING:
    from drawbar_snakemake.engine import SnakemakeOptions
    from drawbar_snakemake.executor import Executor, ExecutorSettings

_OWN_RESOURCES = frozenset(
    {"_cores", "_nodes", "tmpdir", "shell_exec", "runtime", "mem", "mem_mb", "mem_mib"}
    | {"disk", "disk_mb", "disk_mib", "gpu"}
)
"""Resources that mean something to Snakemake or to drawbar; all others are hints for a backend."""


class Specs:
    """Makes the specifications of one workflow's jobs."""

    def __init__(self, executor: Executor, settings: ExecutorSettings) -> None:
        self.python = sys.executable
        self._executor = executor
        self._workflow = executor.workflow
        self._client = settings.client
        self._options = settings.options
        self._environment = settings.environment
        self._sources = settings.sources
        self._scripts: dict[str, str] = {}
        self._placements: dict[tuple[Any, ...], Placement] = {}

    def identity(self, job: Any) -> str:
        """What a job is called in the run: its rule and wildcards; a group after its members."""
        names = sorted(_name(each) for each in members(job))
        return f"{_group_name(job)}({' '.join(names)})" if job.is_group() else names[0]

    def direct(self, job: Any) -> bool:
        """Whether the job's command can be rendered here."""
        return not job.is_group() and is_direct(job, self._workflow)

    def shadowed(self, job: Any) -> bool:
        """Whether the job runs in a shadow directory that is made here."""
        return self.direct(job) and job.is_shadow

    def spec(self, job: Any) -> JobSpec:
        """The specification of a job, as its first try."""
        return self._direct(job) if self.direct(job) else self._nested(job)

    def command(self, spec: JobSpec) -> str:
        """A job's command as its log may show it."""
        return self._scripts.get(spec.identity) or spec.argv[-1]

    def collected(self, job: Any) -> list[Path]:
        """The outputs of an ended job that are there."""
        return [path for path in self._outputs(job) if os.path.lexists(path)]

    def gone(self, job: Any) -> bool:
        """Whether an output of the job is missing."""
        return any(not os.path.lexists(path) for path in self._outputs(job))

    def temporary(self, job: Any) -> list[Path]:
        """The temp() files that are there and that Snakemake may delete when the job has ended."""
        jobs = [job, *self._workflow.dag.dependencies[job]]
        files = (path for each in jobs for path in each.output if is_flagged(path, "temp"))
        return [path for path in map(_absolute, files) if path.exists()]

    def write_script(self, spec: JobSpec) -> None:
        """Put a command that is too long for an argument where the job looks for it."""
        text = self._scripts.get(spec.identity)
        if text is not None:
            directory = self._client.directory(spec.identity)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "script").write_text(text)

    # the lanes

    def _direct(self, job: Any) -> JobSpec:
        resources = resources_of(job)
        command = command_of(job, resources)
        identity = self.identity(job)
        argv: tuple[str, ...] = (command.executable, "-c", command.text)
        if len(shlex.quote(command.text)) > MAX_ARG_LEN:
            self._scripts[identity] = command.text
            argv = (command.executable, str(self._client.directory(identity) / "script"))
        directory = Path.cwd()
        if job.is_shadow:
            shadows = Path(self._workflow.persistence.shadow_path).absolute()
            directory = shadows / directory_name(identity)
        placement = self._place(job, resources, job.container_img_url)
        threads = dict.fromkeys(THREAD_VARIABLES, str(job.threads))
        temporary = dict.fromkeys(TMPDIR_VARIABLES, str(resources["tmpdir"])) if _own_tmpdir(job) else {}
        canonical = {
            "command": self._portable(command.text),
            "shell": command.executable,
            "shadow": job.rule.shadow_depth,
            "outputs": sorted(self._portable(str(path)) for path in job.output),
        }
        return self._made(job, argv, str(directory), canonical, placement, {**threads, **temporary})

    def _nested(self, job: Any) -> JobSpec:
        images = {each.container_img_url for each in members(job)} - {None}
        if len(images) > 1:
            raise WorkflowError(f"the rules of group {job.groupid} have different images: {sorted(images)}")
        placement = self._place(job, job.resources, next(iter(images), None))
        within = "python" if placement.container else sys.executable
        self.python = shlex.quote(self._options.nested_interpreter or placement.interpreter or within)
        command = self._executor.format_job_exec(job)
        canonical = {
            "snakemake": snakemake_version,
            "jobs": sorted((self._described(each) for each in members(job)), key=repr),
        }
        return self._made(job, ("sh", "-c", command), str(Path.cwd()), canonical, placement, {})

    def _described(self, job: Any) -> Mapping[str, Any]:
        """What the result of a job depends on that a nested Snakemake runs."""
        return {
            "rule": job.rule.name,
            "program": self._portable(program(job)),
            "params": [[name, self._portable(described(value))] for name, value in job.params._allitems()],
            "wildcards": sorted(job.wildcards_dict.items()),
            "inputs": [[name, self._portable(str(path))] for name, path in job.input._allitems()],
            "outputs": [[name, self._portable(str(path))] for name, path in job.output._allitems()],
            "log": [self._portable(str(path)) for path in job.log],
            "benchmark": job.benchmark and self._portable(str(job.benchmark)),
            "shadow": job.rule.shadow_depth,
            "conda": job.conda_env.content_hash if self._uses_conda(job) else None,
        }

    def _uses_conda(self, job: Any) -> bool:
        methods = self._workflow.deployment_settings.deployment_method
        return DeploymentMethod.CONDA in methods and job.conda_env is not None

    def _made(
        self,
        job: Any,
        argv: tuple[str, ...],
        directory: str,
        canonical: Mapping[str, Any],
        placement: Placement,
        environment: Mapping[str, str],
    ) -> JobSpec:
        own = {
            name: value for name, value in os.environ.items() if self._environment.get(name) != value
        }  # what the Snakefile sets for its jobs
        return JobSpec(
            identity=self.identity(job),
            name=self.identity(job),
            step=step_of(job),
            argv=argv,
            directory=directory,
            canonical={**canonical, "environment": {name: self._portable(own[name]) for name in own}},
            image=placement.image,
            image_required=placement.container,
            environment={**own, **environment},
            inputs=tuple(self._inputs(job, canonical.get("command", ""))),
            outputs=tuple(map(str, self._outputs(job, cleared=True))),
            resources=placement.resources,
            hints=placement.hints,
            backend=placement.backend,
        )

    def _place(self, job: Any, resources: Any, image: str | None) -> Placement:
        """Where a job runs.

        Threads and GPUs are what a rule would like: Snakemake scales the ones down and does not look for
        the others. Where they cannot be had, the job gets what this machine has.
        """
        needs, hints = needs_of(resources, job.threads)
        direct = self.direct(job)
        image = image_of(image, self._options, direct=direct)
        question = (step_of(job), direct, image, needs, tuple(hints.items()))
        if question not in self._placements:
            library = None if direct else library_of(self._options)
            self._placements[question] = self._placed(job, needs, hints, image, library)
        return self._placements[question]

    def _placed(
        self, job: Any, needs: Resources, hints: Mapping[str, Any], image: str | None, library: str | None
    ) -> Placement:
        def place(needs: Resources) -> Placement:
            return self._client.place(
                step=step_of(job),
                image=image or self._options.image,
                image_required=image is not None,
                library=library,
                resources=needs,
                hints=hints,
            )

        try:
            return place(needs)
        except Unsupported:
            less = replace(needs, cpus=min(needs.cpus, os.cpu_count() or 1), gpus=0)
            if less == needs:
                raise
            placement = place(less)
            self._client.log(
                "drawbar.snakemake", "WARNING", f"{step_of(job)} runs with {_said(less)}, not {_said(needs)}"
            )
            return placement

    # files

    def _inputs(self, job: Any, command: str) -> Iterator[Input]:
        made = {str(path) for each in members(job) for path in each.output}
        names = {str(path) for each in members(job) for path in each.input} - made
        for name in sorted(names):
            path = _absolute(name)
            if path.exists():
                yield Input(path=str(path), name=os.path.relpath(path, self._client.workspace))
        known = {os.path.relpath(_absolute(name), self._client.workspace) for name in names | made}
        texts = "\n".join(text_of(each.rule) for each in members(job))
        yield from self._sources.inputs_of(f"{texts}\n{command}", known)

    def _outputs(self, job: Any, *, cleared: bool = False) -> list[Path]:
        """The files and directories that a job makes; with `cleared`, those to be removed before it."""
        found = []
        for each in members(job):
            files = [*each.output, *([each.benchmark] if each.benchmark else [])]
            for file in files:
                if is_flagged(file, "pipe") or is_flagged(file, "service") or is_flagged(file, "nodelocal"):
                    continue
                if cleared and is_flagged(file, "update"):
                    continue
                if job.is_group() and is_flagged(file, "temp"):
                    continue
                found.append(_absolute(file))
        return found

    def _portable(self, text: str) -> str:
        """A text with the workspace, where it stands as a whole path, named and not spelt out."""
        text = text.replace(str(self._workflow.sourcecache.runtime_cache_path), "<sources>")
        workspace = re.escape(str(self._client.workspace))
        return re.sub(rf"(?<![\w./~-]){workspace}(?![\w.-])", "<workspace>", text)


def is_direct(job: Any, workflow: Any) -> bool:
    """Whether the command of a job that is in no group can be rendered here."""
    if job.rule.shellcmd is None:
        return False
    methods = workflow.deployment_settings.deployment_method
    return not (
        job.benchmark is not None
        or (workflow.workflow_settings.cache is not None and job.rule.cache)
        or job.is_pipe
        or job.is_service
        or (DeploymentMethod.CONDA in methods and job.conda_env_spec)
        or (DeploymentMethod.APPTAINER in methods and job.container_img_url)
        or (DeploymentMethod.ENV_MODULES in methods and job.env_modules)
    )


def image_of(image: str | None, options: SnakemakeOptions, *, direct: bool) -> str | None:
    """The image that a job has to run in, given that of its rule."""
    named = image if direct else options.nested_image or image
    return named.removeprefix("docker://") if named else None


def library_of(options: SnakemakeOptions) -> str | None:
    """What a nested job needs where it runs, unless the user says where that is."""
    return None if options.nested_image or options.nested_interpreter else f"Snakemake {snakemake_version}"


def members(job: Any) -> list[Any]:
    """The jobs of a group, or the job itself."""
    return list(job.jobs) if job.is_group() else [job]


def step_of(job: Any) -> str:
    """The step that a job belongs to: its rule, or its group with the rules in it."""
    if not job.is_group():
        return str(job.name)
    rules = sorted({each.rule.name for each in job.jobs})
    return "_".join(filter(None, (_group_name(job), *rules)))


def _group_name(job: Any) -> str:
    """What the user calls a group; one that Snakemake makes for a pipe has another name in every start."""
    made = {each.pipe_group.id for each in job.jobs if each.pipe_group is not None}
    return "" if job.groupid in made else str(job.groupid)


def _name(job: Any) -> str:
    wildcards = ",".join(f"{name}={value}" for name, value in sorted(job.wildcards_dict.items()))
    return f"{job.rule.name}:{wildcards}" if wildcards else str(job.rule.name)


def _absolute(path: Any) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links are kept)


def _own_tmpdir(job: Any) -> bool:
    """Whether the workflow says where temporary files go, rather than leaving it to the worker."""
    return not isinstance(job.resources.get("tmpdir"), TBDString | None)


def _said(needs: Resources) -> str:
    return f"{needs.cpus:g} CPUs and {needs.gpus} GPUs"


def needs_of(resources: Any, threads: Any) -> tuple[Resources, Mapping[str, Any]]:
    """What a rule's resources and threads ask for, and the hints for backends among them."""
    known = {name: value for name, value in resources.items() if not isinstance(value, TBDString)}

    def number(*names: str) -> Any:
        values = (known.get(name) for name in names)
        return next((value for value in values if isinstance(value, int | float) and value > 0), None)

    runtime = number("runtime")
    needs = Resources(
        cpus=max(1, threads) if isinstance(threads, int) else 1,
        memory_mib=number("mem_mib", "mem_mb"),
        disk_mib=number("disk_mib", "disk_mb"),
        gpus=number("gpu") or 0,
        walltime_s=runtime and runtime * 60.0,
    )
    hints = {
        name: value
        for name, value in known.items()
        if name not in _OWN_RESOURCES and isinstance(value, str | int | float | bool)
    }
    return needs, hints
