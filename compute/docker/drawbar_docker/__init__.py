"""The docker backend: jobs run in containers of an engine that speaks the Docker API."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.backend import Backend


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    """The docker backend."""
    from drawbar_docker.backend import DockerBackend

    return [DockerBackend]
