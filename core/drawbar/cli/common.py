"""What commands have in common: settings, plugins and runs, options that several of them have, tables."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from drawbar import report
from drawbar.analysis import Analysis, load_analysis
from drawbar.cli.failures import show_problems
from drawbar.home import Home, RunDirectory
from drawbar.parameters import assignments, parameters_from
from drawbar.plugins import Plugins, load_plugins
from drawbar.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


class App:
    """What all commands of one call share. `assignments` are those of `--set`."""

    def __init__(self, assignments: Sequence[str]) -> None:
        self.assignments = tuple(assignments)

    @functools.cached_property
    def plugins(self) -> Plugins:
        """The installed plugins."""
        return load_plugins()

    def settings(self, start: Path | str | None = None) -> Settings:
        """The settings that hold for an analysis in the directory `start`, or for none."""
        overrides = assignments(self.assignments, "--set")
        settings = load_settings(start=Path(start or Path.cwd()), environ=os.environ, overrides=overrides)
        show_problems(settings.warnings)
        return settings

    @functools.cached_property
    def home(self) -> Home:
        """Where the runs are."""
        return Home(self.settings().home)

    def find(self, run: str) -> RunDirectory:
        """A run by its id, or the newest of a name."""
        return self.home.find(run)


def directory_of(analysis: str) -> Path:
    """The directory that an ANALYSIS argument is in, or is."""
    path = Path(analysis)
    if not path.exists() and "#" in analysis:
        path = Path(analysis.rpartition("#")[0])
    return path if path.is_dir() else path.parent


def read_analysis(
    app: App,
    analysis: str,
    *,
    engine: str | None = None,
    parameters: Sequence[str] = (),
    parameters_file: Path | None = None,
    options: Sequence[str] = (),
) -> Analysis:
    """The analysis that the arguments and options of a command mean."""
    return load_analysis(
        analysis,
        engines=app.plugins.engines,
        engine=engine,
        parameters=parameters_from(parameters),
        parameters_file=parameters_file,
        options=assignments(options, "-o"),
    )


def analysis_options(command: F) -> F:
    """The argument ANALYSIS, and the options that say how it is read."""
    for decorate in reversed(
        [
            click.argument("analysis", default="."),
            click.option("--engine", metavar="E", help="The engine of a bare workflow file."),
            click.option("--backend", metavar="B", help="Run everything there; else see `drawbar backends`."),
            click.option(
                "-p",
                "--parameter",
                "parameters",
                metavar="NAME=VALUE",
                multiple=True,
                help="Give a parameter another value, read as in a YAML file.",
            ),
            click.option(
                "--parameters",
                "parameters_file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Take parameters from a YAML or JSON file; those of -p win.",
            ),
            click.option(
                "-o",
                "--option",
                "options",
                metavar="OPTION=VALUE",
                multiple=True,
                help="Set an operational option of the engine.",
            ),
            click.option("--until", metavar="STEP", help="End after this step, where the engine can."),
            click.option("--no-container", is_flag=True, help="Run without the images that steps name."),
            click.option(
                "--container",
                type=click.Choice(["docker", "apptainer"]),
                help="Use images with this program.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def container_choice(no_container: bool, container: str | None) -> str | None:
    """The user's word on images, as a `RunSpec` has it."""
    if no_container and container:
        raise click.UsageError("--no-container and --container exclude each other")
    return "none" if no_container else container


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def print_json(value: Any) -> None:
    """Write one JSON document on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "") -> None:
    """Write a table on standard output: fitted to a terminal, else whole, two spaces between columns."""
    if not rows:
        if empty:
            click.echo(empty)
        return
    texts = [[_plain(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
        for line in [list(columns), *texts]:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for line in texts:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
    console().print(table)


def console() -> Console:
    """Standard output as a terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


STYLES: Mapping[str, str] = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "cancelled": "yellow",
    "interrupted": "yellow",
}
"""How states look on a terminal."""


def _plain(cell: Any) -> str:
    """A cell as text on one line."""
    return "" if cell is None else " ".join(report.legible(str(cell)).splitlines())
