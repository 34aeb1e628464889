"""The Slurm backend: jobs and job arrays through sbatch, squeue, sacct and scancel."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.backend import Backend


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    """The Slurm backend."""
    from drawbar_slurm.backend import SlurmBackend

    return [SlurmBackend]
