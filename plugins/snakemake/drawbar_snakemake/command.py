"""`drawbar-snakemake`: runs a workflow as `snakemake` would, in the directory where it is called.

    drawbar-snakemake [-s SNAKEFILE] [-d DIRECTORY] [--backend B] [Snakemake's options] [TARGET...]

It takes Snakemake's own options and targets. The run is an ordinary one, in a home of its own that is
removed afterwards, or in the one that `--home` names, where it can be resumed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drawbar.analysis import load_analysis
from drawbar.creation import create_run, unfinished
from drawbar.driver import Driver
from drawbar.errors import DrawbarError, UsageError
from drawbar.home import Home
from drawbar.model import RunState
from drawbar.plugins import load_plugins
from drawbar.settings import load_settings

_DEFAULTS = ("Snakefile", "snakefile", "workflow/Snakefile", "workflow/snakefile")
"""Where Snakemake looks for a workflow."""
_UNBOUNDED_MIB = 1 << 40
"""Memory of this machine: as for Snakemake, what rules ask for is bounded by `--resources` only."""
_OUTPUT_CACHE = "SNAKEMAKE_OUTPUT_CACHE"
"""Snakemake's variable for the place of its between-workflow cache."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    asked, rest = _parser().parse_known_args(arguments)
    home = Path(asked.home or tempfile.mkdtemp(prefix="drawbar-snakemake-")).absolute()
    try:
        return _run(asked, rest, home)
    except DrawbarError as error:
        sys.stderr.write(f"drawbar-snakemake: {error}\n")
        return error.exit_status
    finally:
        if not asked.home:
            shutil.rmtree(home, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drawbar-snakemake",
        description="Run a Snakemake workflow. All other options and targets are Snakemake's own.",
        allow_abbrev=False,
    )
    parser.add_argument("-s", "--snakefile", help="the workflow; default: where Snakemake looks for it")
    parser.add_argument("-d", "--directory", default=".", help="the directory to work in")
    parser.add_argument("-c", "--cores", default="all", help="the most CPUs in use at once; default: all")
    parser.add_argument("--backend", help="where the jobs run; default: as drawbar.toml says")
    parser.add_argument("--container", action="store_true", help="use the images that rules name")
    parser.add_argument("--home", help="keep the run in this DRAWBAR_HOME, where it can be resumed")
    parser.add_argument("--name", help="what to call the run in that home; an unfinished one is resumed")
    return parser


def _run(asked: argparse.Namespace, rest: Sequence[str], home: Path) -> int:
    snakefile = _snakefile(asked.snakefile)
    directory = Path(asked.directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    plugins = load_plugins()
    cores = _cores(asked.cores)
    environment = {**os.environ, "DRAWBAR_HOME": str(home)}
    settings = load_settings(
        start=directory,
        environ=environment,
        overrides={"limits.cpus": cores, "backends.local.memory_mib": _UNBOUNDED_MIB},
    )
    if snakefile.is_relative_to(directory):
        root, given = directory, list(rest)
    else:
        root, given = snakefile.parent, [*rest, "--directory", str(directory)]
    options: dict[str, Any] = {"arguments": shlex.join(given), "cores": cores}
    if os.environ.get(_OUTPUT_CACHE):
        options["output_cache"] = os.environ[_OUTPUT_CACHE]
    analysis = load_analysis(
        snakefile, engines=plugins.engines, engine="snakemake", options=options, root=root
    )
    container = None if asked.container else "none"
    runs = Home(home)
    wishes = {"options": options, "in_place": True, "backend": asked.backend, "container": container}
    run = unfinished(runs, analysis, asked.name, wishes) if asked.name else None
    run = run or create_run(runs, analysis, settings=settings, name=asked.name, **wishes)
    driver = Driver(run, settings=settings, plugins=plugins, notice=_say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: driver.cancel())
    result = driver.drive()
    sys.stderr.write(run.engine_log.read_text() if run.engine_log.exists() else "")
    if result.state is not RunState.FINISHED:
        _say(result.message)
    return result.exit_status


def _snakefile(named: str | None) -> Path:
    if named is not None:
        return Path(named).absolute()
    for name in _DEFAULTS:
        if Path(name).is_file():
            return Path(name).absolute()
    raise UsageError(f"there is no Snakefile here; looked for {', '.join(_DEFAULTS)} (name one with -s)")


def _cores(text: str) -> int:
    if text == "all":
        return os.cpu_count() or 1
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--cores is a number of at least 1, or all, and not {text!r}")
    return int(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
