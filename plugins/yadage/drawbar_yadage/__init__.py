"""The yadage engine: dynamic workflows of stages, driven by events."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.engine import Engine


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    """The yadage engine."""
    from drawbar_yadage.engine import YadageEngine

    return [YadageEngine]
