"""Commands about the installation: engines, backends, plugins, config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from drawbar.cli.common import App, json_option, print_json, print_table
from drawbar.cli.failures import show_problems
from drawbar.errors import DrawbarError, InfrastructureError, Severity


@click.command()
@json_option
@click.pass_obj
def engines(app: App, as_json: bool) -> None:
    """List the workflow engines that are installed, and those that cannot be used and why."""
    rows = [row for row in app.plugins.describe() if row.kind == "engine"]
    if as_json:
        print_json([_plugin(row) for row in rows])
        return
    print_table(
        ("ENGINE", "FROM", "VERSION", "FEATURES", "PROBLEM"),
        [(row.name, row.distribution, row.version, " ".join(row.features), row.problem) for row in rows],
    )


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def backends(ctx: click.Context, as_json: bool) -> None:
    """List the backends: those that drawbar.toml names, and those that need no configuration.

    \b
    Examples:
      drawbar backends
      drawbar backends check slurm
    """
    if ctx.invoked_subcommand is not None:
        return
    app: App = ctx.obj
    settings, plugins = app.settings(), app.plugins
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*settings.backends, *sorted(plugins.backends)]):
        kind, _ = settings.backend_table(name)
        cls, problem = plugins.backends.get(kind), None
        try:
            settings.create_backend(name, plugins)
        except DrawbarError as error:
            problem = str(error)
        rows.append(
            {
                "name": name,
                "kind": kind,
                "default": name == settings.backend,
                "features": sorted(cls.features) if cls else [],
                "problem": problem,
            }
        )
    rows += [
        {"name": row.name, "kind": row.name, "default": False, "features": [], "problem": row.problem}
        for row in plugins.describe()
        if row.kind == "backend" and row.problem
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        ("BACKEND", "KIND", "DEFAULT", "FEATURES", "PROBLEM"),
        [
            (
                row["name"],
                row["kind"],
                "yes" if row["default"] else "",
                " ".join(row["features"]),
                row["problem"],
            )
            for row in rows
        ],
    )


@backends.command()
@click.argument("name")
@json_option
@click.pass_obj
def check(app: App, name: str, as_json: bool) -> None:
    """Find out whether a backend can be used now, from here; the exit status is 3 when it cannot.

    \b
    Example:
      drawbar backends check slurm
    """
    settings = app.settings()
    problems = list(settings.create_backend(name, app.plugins).check())
    wrong = any(problem.severity is Severity.ERROR for problem in problems)
    if as_json:
        print_json({"backend": name, "usable": not wrong, "problems": [str(each) for each in problems]})
    else:
        show_problems(problems)
        if not wrong:
            click.echo(f"{name}: can be used")
    click.get_current_context().exit(InfrastructureError.exit_status if wrong else 0)


@click.command()
@json_option
@click.pass_obj
def plugins(app: App, as_json: bool) -> None:
    """List what plugins registered, and what is wrong with any of them."""
    rows = app.plugins.describe()
    if as_json:
        print_json([_plugin(row) for row in rows])
        return
    print_table(
        ("KIND", "NAME", "PLUGIN", "FROM", "VERSION", "PROBLEM"),
        [(row.kind, row.name, row.plugin, row.distribution, row.version, row.problem) for row in rows],
    )


@click.command()
@json_option
@click.pass_obj
def config(app: App, as_json: bool) -> None:
    """Print every setting with its value and where that is from.

    Later wins: default, system file, user file, the drawbar.toml of the analysis in this directory,
    environment (DRAWBAR_LIMITS_CPUS), --set limits.cpus=4.
    """
    rows = app.settings().explain(app.plugins)
    if as_json:
        print_json(
            [
                {"name": row.name, "value": _value(row.value), "origin": row.origin, "help": row.help}
                for row in rows
            ]
        )
        return
    print_table(
        ("SETTING", "VALUE", "ORIGIN"),
        [(row.name, "" if row.value is None else str(row.value), row.origin) for row in rows],
    )


def _value(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _plugin(row: Any) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "name": row.name,
        "plugin": row.plugin,
        "distribution": row.distribution,
        "version": row.version,
        "api": row.api,
        "features": list(row.features),
        "problem": row.problem,
    }
