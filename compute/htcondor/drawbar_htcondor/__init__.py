"""The HTCondor backend: jobs and clusters of jobs through the `htcondor2` bindings."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.backend import Backend


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    """The HTCondor backend."""
    from drawbar_htcondor.backend import HTCondorBackend

    return [HTCondorBackend]
