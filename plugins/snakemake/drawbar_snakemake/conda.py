"""The conda environments of rules. Snakemake makes them in the engine process, before the first job."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import Any

from drawbar.errors import Problem, SpecError, by_message
from snakemake.exceptions import CreateCondaEnvironmentException
from snakemake.settings.types import DeploymentMethod

_HINT = (
    "have `conda` on the PATH of the engine process, with the channels of the environment in its reach; or "
    "leave `--software-deployment-method conda` out, where what the rule needs is installed or in an image"
)


def check(jobs: Iterable[Any], workflow: Any) -> None:
    """Raise a `SpecError` that names the rules, when some of these jobs need `conda` and there is none."""
    if shutil.which("conda") is None:
        _refuse(jobs, workflow, "the rule has a conda environment, and there is no `conda` here")


def explain(error: Exception, workflow: Any) -> None:
    """Raise a `SpecError` that names the rules, when an error comes from their conda environments."""
    if isinstance(error, CreateCondaEnvironmentException):
        _refuse(workflow.dag.jobs, workflow, str(error))
    elif workflow.dag is not None:
        check(workflow.dag.jobs, workflow)


def _refuse(jobs: Iterable[Any], workflow: Any, why: str) -> None:
    methods = workflow.deployment_settings.deployment_method
    if DeploymentMethod.CONDA in methods:
        contained = DeploymentMethod.APPTAINER in methods
        rules = (
            job.rule.name for job in jobs if job.conda_env_spec and not (contained and job.container_img_url)
        )
        if problems := [Problem(message=why, step=rule, hint=_HINT) for rule in dict.fromkeys(rules)]:
            raise SpecError(by_message(problems))
