"""The CWL engine: Common Workflow Language v1.0, v1.1 and v1.2, with cwltool as a library."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.engine import Engine


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    """The CWL engine."""
    from drawbar_cwl.engine import CwlEngine

    return [CwlEngine]
