"""The command line. Here is only what `drawbar --help` needs; a command brings its module when it is used."""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """A command: the module that has it, what it is called there, and what `--help` says of it."""

    module: str
    function: str
    help: str


SECTIONS = {
    "Run": {
        "run": Entry("running", "run", "Run an analysis."),
        "resume": Entry("running", "resume", "Go on with a run: after a crash, an edit, a failure."),
        "cancel": Entry("running", "cancel", "Stop a run and its jobs."),
    },
    "Look": {
        "list": Entry("looking", "list_runs", "List the runs."),
        "status": Entry("looking", "status", "Show where a run is, job by job."),
        "wait": Entry("looking", "wait", "Wait until runs have ended."),
        "logs": Entry("logs", "logs", "Print what the jobs of a run printed."),
        "outputs": Entry("looking", "outputs", "List, or copy out, what a run yielded."),
        "test": Entry("testing", "test", "Evaluate the tests of a run's analysis."),
    },
    "Check": {
        "validate": Entry("checking", "validate", "Find every problem of an analysis at once."),
        "plan": Entry("checking", "plan", "Show the steps, and whether each can run."),
        "images": Entry("imaging", "images", "List the images of an analysis."),
    },
    "Clean up": {
        "delete": Entry("cleaning", "delete", "Delete runs with all their files."),
        "prune": Entry("cleaning", "prune", "Remove old runs, or their intermediate files."),
    },
    "Installation": {
        "engines": Entry("site", "engines", "List the workflow engines."),
        "backends": Entry("site", "backends", "List the compute backends, or check one."),
        "plugins": Entry("site", "plugins", "List the plugins, and what is wrong with any."),
        "config": Entry("site", "config", "Print every setting with its value and origin."),
    },
}
HIDDEN = {"drive": Entry("running", "drive", "Drive a run, as `run --detach` has it done.")}


class _Commands(click.Group):
    """Finds commands in `SECTIONS`, and imports a module only when one of its commands is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands that users are meant to see."""
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, from its module."""
        entries = {name: entry for section in SECTIONS.values() for name, entry in section.items()} | HIDDEN
        if cmd_name not in entries:
            return None
        from importlib import import_module

        entry = entries[cmd_name]
        found = getattr(import_module(f"drawbar.cli.{entry.module}"), entry.function)
        assert isinstance(found, click.Command)
        found.short_help = entry.help
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint for a misspelt command."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            from drawbar.options import did_you_mean

            hint = did_you_mean(args[0], self.list_commands(ctx)) or "see `drawbar --help`"
            ctx.fail(f"there is no command {args[0]!r} ({hint})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        import drawbar

        click.echo(f"drawbar {drawbar.__version__}")
        ctx.exit()


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="RUN is the id of a run (analysis.3), or a name, which means its newest run. Every command "
    "has a --help of its own. Exit status: 0 done, 1 the analysis failed, 2 the analysis or the call is "
    "wrong, 3 the infrastructure failed, 130 interrupted.",
)
@click.option(
    "--set",
    "assignments",
    metavar="NAME=VALUE",
    multiple=True,
    help="Set what drawbar.toml can set, for this call: --set limits.cpus=4. See `drawbar config`.",
)
@click.option("--debug", is_flag=True, help="Show a stack trace with an error (or set DRAWBAR_TRACEBACK=1).")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Print the version.",
)
@click.pass_context
def drawbar(ctx: click.Context, assignments: tuple[str, ...], debug: bool) -> None:
    """Run any workflow engine on any compute backend.

    \b
    Start here:
      drawbar run                     the reana.yaml in this directory
      drawbar validate workflow.cwl   is it right?
      drawbar status RUN              where is it?
      drawbar resume RUN              go on after a crash or an edit
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    from drawbar.cli.common import App

    ctx.obj = App(assignments)
    if debug:
        os.environ["DRAWBAR_TRACEBACK"] = "1"


def main(arguments: list[str] | None = None) -> Any:
    """The program `drawbar`; exits with the status that the epilog of its help names."""
    try:
        status = drawbar.main(arguments, prog_name="drawbar", standalone_mode=False)
    except click.exceptions.Exit as stop:
        status = stop.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("drawbar: interrupted", err=True)
        status = 130
    except Exception as error:
        from drawbar.cli.failures import explain

        status = explain(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads on: end without a word, with the status that click uses too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status if isinstance(status, int) else 0)
