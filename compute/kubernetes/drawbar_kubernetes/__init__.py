"""The Kubernetes backend: jobs run in pods of a cluster, as `batch/v1` Jobs."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.backend import Backend


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    """The Kubernetes backend."""
    from drawbar_kubernetes.backend import KubernetesBackend

    return [KubernetesBackend]
