"""The Snakemake engine: every kind of rule, on any backend."""

from __future__ import annotations

from drawbar import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.engine import Engine


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    """The Snakemake engine."""
    from drawbar_snakemake.engine import SnakemakeEngine

    return [SnakemakeEngine]
