"""The serial engine: REANA's own language of steps that run one after another."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.engine import Engine


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    """The serial engine."""
    from drawbar_serial.engine import SerialEngine

    return [SerialEngine]
