"""A workflow in Snakemake's Python API: one per process, since Snakemake keeps global state."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from drawbar.engine import Source, StepFailed
from drawbar.errors import DrawbarError, Problem, SpecError
from snakemake.api import SnakemakeApi
from snakemake.caching import LOCATION_ENVVAR
from snakemake.cli import parse_args, parse_config
from snakemake.exceptions import RuleException, get_exception_origin
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    DeploymentSettings,
    ExecutionSettings,
    GroupSettings,
    MaxJobsPerTimespan,
    OutputSettings,
    RemoteExecutionSettings,
    ResourceSettings,
    SchedulingSettings,
    StorageSettings,
    WorkflowSettings,
)
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake_interface_report_plugins.registry import ReportPluginRegistry
from snakemake_interface_storage_plugins.registry import StoragePluginRegistry

from drawbar_snakemake import economy, pipes, selection, snapshot
from drawbar_snakemake.executor import NAME, ExecutorSettings, register
from drawbar_snakemake.log import RunLog

if TYPE_CHECKING:
    from drawbar_snakemake.engine import SnakemakeOptions


@dataclass(slots=True)
class Session:
    """An open workflow. `arguments` are Snakemake's own options, parsed by Snakemake."""

    workflow: Any
    _dag: Any
    arguments: Any

    def execute(self, settings: ExecutorSettings) -> None:
        """Run the workflow's jobs. Raises what Snakemake raises, also when a job has failed."""
        given = self.arguments
        register()
        selection.register()
        economy.apply()
        pipes.apply()
        self._dag.execute_workflow(
            executor=NAME,
            execution_settings=ExecutionSettings(
                keep_going=given.keep_going,
                ignore_ambiguity=given.allow_ambiguity,
                latency_wait=given.latency_wait,
                no_hooks=given.no_hooks,
                retries=given.retries,
                shadow_prefix=given.shadow_prefix,
                keep_incomplete=given.keep_incomplete,
                keep_metadata=not given.drop_metadata,
                cleanup_scripts=not given.skip_script_cleanup,
                queue_input_wait_time=given.queue_input_wait_time,
            ),
            remote_execution_settings=RemoteExecutionSettings(envvars=given.envvars),
            scheduling_settings=SchedulingSettings(
                prioritytargets=given.prioritize,
                scheduler=selection.NAME,
                max_jobs_per_timespan=_pace(given.max_jobs_per_timespan),
            ),
            group_settings=GroupSettings(
                group_components=given.group_components, overwrite_groups=given.groups
            ),
            executor_settings=settings,
        )

    def force(self, rules: set[str]) -> None:
        """Run these rules again, whatever Snakemake thinks of their outputs."""
        settings = self._dag.dag_settings
        settings.forcerun = {*settings.forcerun, *rules}

    def delete_temporary_files(self) -> None:
        """Delete what an engine that was killed did not come to delete; Snakemake itself forgets it."""
        for job in self.workflow.dag.jobs:
            self.workflow.async_run(self.workflow.dag.handle_temp(job))

    def report(self, file: Path) -> None:
        """Write Snakemake's report on the finished run."""
        settings = ReportPluginRegistry().get_plugin("html").settings_cls(path=file)
        self._dag.create_report(reporter="html", report_settings=settings)

    def determine(self) -> Any:
        """The graph of jobs, without running any: as it is for this executor, which has groups."""
        register()
        self.workflow._executor_plugin = ExecutorPluginRegistry().get_plugin(NAME)
        self.workflow._prepare_dag(
            forceall=self.workflow.dag_settings.forceall,
            ignore_incomplete=True,
            lock_warn_only=True,
            nolock=True,
        )
        self.workflow._build_dag()
        return self.workflow.dag


@contextlib.contextmanager
def opened(source: Source, options: SnakemakeOptions, log: RunLog, *, workdir: Path) -> Iterator[Session]:
    """Parse a Snakefile, with `workdir` as the directory it works in.

    What goes wrong in it is a `SpecError`, and so is any other error that leaves the context.
    """
    with _api(source, options, log, workdir) as (workflow_api, given):
        until = {*given.until, *([source.until] if source.until else [])}
        dag = workflow_api.dag(
            DAGSettings(
                targets=given.targets,
                batch=given.batch,
                forcetargets=given.force,
                forceall=given.forceall,
                forcerun=given.forcerun,
                until=until,
                omit_from=given.omit_from,
                force_incomplete=True,
                rerun_triggers=given.rerun_triggers,
                strict_evaluation=given.strict_dag_evaluation,
            )
        )
        yield Session(workflow_api._workflow, dag, given)


@contextlib.contextmanager
def untouched(source: Source, options: SnakemakeOptions, log: RunLog, *, workdir: Path) -> Iterator[Any]:
    """An empty workflow, for which no Snakefile was executed; errors as in `opened`."""
    with _api(source, options, log, workdir) as (workflow_api, _):
        workflow_api._workflow_store = workflow_api._get_workflow()
        yield workflow_api._workflow_store


@contextlib.contextmanager
def kept_process() -> Iterator[None]:
    """Undo what a Snakefile changes in this process: environment, module path, working directory."""
    environment, path, here = dict(os.environ), list(sys.path), Path.cwd()
    try:
        yield
    finally:
        os.chdir(here)
        sys.path[:] = path
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def _api(source: Source, options: SnakemakeOptions, log: RunLog, workdir: Path) -> Iterator[tuple[Any, Any]]:
    snakefile = snakefile_of(source)
    given = _arguments(options)
    if options.output_cache is not None:
        os.environ[LOCATION_ENVVAR] = options.output_cache
    with SnakemakeApi(OutputSettings(nocolor=True, enable_file_logging=False)) as api:
        log.install()
        try:
            yield _workflow(api, source, options, given, snakefile, workdir), given
        except (DrawbarError, StepFailed):
            raise
        except (Exception, SystemExit) as error:
            kept = getattr(api._workflow_api, "_workflow_store", None)
            raise SpecError(_problem(error, snakefile, getattr(kept, "linemaps", {}), source)) from error


def snakefile_of(source: Source) -> Path:
    """The workflow file; a `SpecError` when there is none."""
    if source.file is None:
        message = "a Snakemake workflow is a file: name it under workflow.file"
        raise SpecError(Problem(message=message, file=str(source.document)))
    return source.root / source.file


def _arguments(options: SnakemakeOptions) -> Any:
    """Snakemake's own options, as Snakemake reads them."""
    try:
        _, given = parse_args(shlex.split(options.arguments))
    except SystemExit as error:
        message = f"Snakemake does not understand the options {options.arguments!r}"
        raise SpecError(Problem(message=message, hint="see `snakemake --help`")) from error
    except Exception as error:
        raise SpecError(f"Snakemake's options {options.arguments!r}: {error}") from error
    return given


def _pace(asked: Any) -> Any:
    """How many jobs may start in what time: as the user says, but not Snakemake's own default."""
    default = MaxJobsPerTimespan.parse_choice("100/1s")
    return None if vars(asked) == vars(default) else asked


def _workflow(
    api: SnakemakeApi, source: Source, options: SnakemakeOptions, given: Any, snakefile: Path, workdir: Path
) -> Any:
    workdir = workdir / (given.directory or "")
    return api.workflow(
        resource_settings=ResourceSettings(
            cores=options.cores or given.cores,
            nodes=given.jobs or sys.maxsize,
            local_cores=given.local_cores,
            max_threads=given.max_threads,
            resources=given.resources,
            overwrite_threads=given.set_threads,
            overwrite_scatter=given.set_scatter,
            overwrite_resource_scopes=given.set_resource_scopes,
            overwrite_resources=given.set_resources,
            default_resources=given.default_resources,
        ),
        config_settings=ConfigSettings(
            config={**source.parameters, **parse_config(given.config)},
            configfiles=given.configfile,
            config_args=given.config,
            replace_workflow_config=given.replace_workflow_config,
        ),
        storage_settings=StorageSettings(
            default_storage_provider=given.default_storage_provider,
            default_storage_prefix=given.default_storage_prefix,
            keep_storage_local=given.keep_storage_local_copies,
            retrieve_storage=not given.not_retrieve_storage,
            notemp=given.notemp,
            all_temp=given.all_temp,
            omit_flags=given.omit_flags,
        ),
        storage_provider_settings={
            name: StoragePluginRegistry().get_plugin(name).get_settings(given)
            for name in StoragePluginRegistry().get_registered_plugins()
        },
        workflow_settings=WorkflowSettings(
            wrapper_prefix=given.wrapper_prefix,
            cache=given.cache,
            consider_ancient=given.consider_ancient,
            runtime_source_cache_path=snapshot.begin(workdir),
        ),
        deployment_settings=DeploymentSettings(
            deployment_method=given.software_deployment_method,
            conda_prefix=given.conda_prefix,
            conda_base_path=given.conda_base_path,
            conda_frontend=given.conda_frontend,
            conda_not_block_search_path_envvars=given.conda_not_block_search_path_envvars,
            apptainer_args=given.apptainer_args,
            apptainer_prefix=given.apptainer_prefix,
        ),
        snakefile=snakefile,
        workdir=workdir,
    )


def _problem(error: BaseException, snakefile: Path, linemaps: Mapping[str, Any], source: Source) -> Problem:
    """What is wrong with a workflow, and where, from an exception of Snakemake's or of the Snakefile."""
    file, line = getattr(error, "filename", None), getattr(error, "lineno", None)
    if isinstance(error, SyntaxError):
        if Path(extract_tb(error.__traceback__)[-1].filename).name != "parser.py":
            line = linemaps.get(str(file), {}).get(line, line)
    elif not isinstance(error, RuleException) or line is None:
        line, file = get_exception_origin(error, linemaps) or (line, file)
        line = linemaps.get(str(file), {}).get(line, line)
    message = str(error.msg if isinstance(error, SyntaxError) else error).strip() or type(error).__name__
    if not type(error).__module__.startswith("snakemake"):
        message = f"{type(error).__name__}: {message}"
    return Problem(message=message, file=_shown(file or snakefile, source.root), line=line)


def _shown(file: Any, root: Path) -> str:
    path = Path(str(file))
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
