"""The local backend: jobs are processes of this machine, watched by a small supervisor."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.backend import Backend


@hookimpl
def drawbar_register_backends() -> list[type[Backend]]:
    """The local backend."""
    from drawbar_local.backend import LocalBackend

    return [LocalBackend]
