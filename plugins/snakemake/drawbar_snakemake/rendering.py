"""The shell command of a rule, exactly as Snakemake would run it.

Snakemake compiles the body of a rule into a function that calls `shell(...)`. Running that function
with a `shell` that only writes down what it is given renders f-strings, globals of modules, and
functions among the parameters as the real run would; formatting the text of the rule would not.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from snakemake.common.tbdstring import TBDString
from snakemake.iocontainers import ResourceList
from snakemake.shell import shell
from snakemake.utils import format as fill

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What Snakemake sets for the numerical libraries of a job to its number of threads."""

TMPDIR_VARIABLES = ("TMPDIR", "TMP", "TEMPDIR", "TEMP")


@dataclass(frozen=True, slots=True)
class Command:
    """A text for a shell. `executable` is a bare name where Snakemake looked it up on its own PATH."""

    executable: str
    text: str


def resources_of(job: Any) -> Any:
    """The resources of a job with none left to be determined on the worker."""
    left = [name for name, value in job.resources.items() if isinstance(value, TBDString)]
    if left == ["tmpdir"] and job.rule.resources["tmpdir"].raw == "system_tmpdir":
        # Snakemake's default, which nearly every job has; all the rest is evaluated already.
        return ResourceList(fromdict={**dict(job.resources.items()), "tmpdir": tempfile.gettempdir()})
    return job.rule.expand_resources(job.wildcards_dict, job.input, job.attempt, skip_evaluation=set())


def command_of(job: Any, resources: Any) -> Command:
    """The command of a `shell:` rule's job, with Snakemake's prefix and suffix."""
    texts: list[str] = []

    def record(command: str, *arguments: Any, **values: Any) -> None:
        texts.append(fill(command, *arguments, stepout=2, **values))

    function = job.rule.run_func
    recording = FunctionType(
        function.__code__,
        {**function.__globals__, "shell": record},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    known = {
        "input": job.input._plainstrings(),
        "output": job.output._plainstrings(),
        "params": job.params,
        "wildcards": job.wildcards,
        "threads": job.threads,
        "resources": resources,
        "log": job.log._plainstrings(),
        "rule": job.rule.name,
        "jobid": job.jobid,
        "is_shell": True,
        "use_singularity": False,
        "basedir": job.rule.basedir,
    }
    code = function.__code__
    recording(**{name: known.get(name) for name in code.co_varnames[: code.co_argcount]})
    asked = resources.get("shell_exec")
    executable = asked or shell.get_executable()
    text = " ".join((shell._get_process_prefix(executable), *texts, shell._process_suffix)).strip()
    return Command(asked or os.path.basename(executable or "sh"), text)  # noqa: PTH119 (a text)
