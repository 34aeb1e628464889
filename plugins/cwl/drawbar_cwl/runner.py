"""`drawbar-cwl-runner`: runs one CWL document as the command-line convention of CWL wants it.

    drawbar-cwl-runner [--quiet] [--outdir DIR] [--backend B] TOOL [JOB]

The output object is printed on standard output, everything else on standard error. Exit status 0 is
success, 33 means that something is not supported, any other a failure. The run is an ordinary one, in a
home of its own that is removed afterwards, or in the one that `--home` names, where it can be resumed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import drawbar
from drawbar.analysis import load_analysis
from drawbar.backend import BackendFeature
from drawbar.creation import create_run, unfinished
from drawbar.driver import Driver
from drawbar.driveresult import DriveResult
from drawbar.enginehost import EngineProcess
from drawbar.errors import DrawbarError, Unsupported
from drawbar.home import Home
from drawbar.hookspecs import Event
from drawbar.model import JobSpec, RunState
from drawbar.plugins import load_plugins
from drawbar.settings import Settings, load_settings

EngineStarter = Callable[[str, Settings], EngineProcess]

UNSUPPORTED = 33
_HERE = "local"
"""Where tools that name no image run when the backend has nothing but containers, as with cwltool."""
_PLAIN = JobSpec(identity="a", name="a", step="a", argv=("true",), directory="/", canonical=None)
_IGNORED = ("--parallel", "--relax-path-checks", "--debug", "--timestamps", "--js-console", "--disable-color")


def main(arguments: Sequence[str] | None = None, *, start_engine: EngineStarter = EngineProcess.start) -> int:
    """Run the command; returns the exit status. `start_engine` may be that of a warm parent."""
    asked, rest = _parser().parse_known_args(arguments)
    problem = _leftover(asked, rest)
    if problem:
        sys.stderr.write(f"drawbar-cwl-runner: {problem}\n")
        return 2
    home = Path(asked.home or tempfile.mkdtemp(prefix="drawbar-cwl-")).absolute()
    try:
        return _run(asked, rest, home, start_engine)
    except Unsupported as error:
        sys.stderr.write(f"drawbar-cwl-runner: unsupported: {error}\n")
        return UNSUPPORTED
    except DrawbarError as error:
        sys.stderr.write(f"drawbar-cwl-runner: {error}\n")
        return error.exit_status
    finally:
        if not asked.home:
            shutil.rmtree(home, ignore_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drawbar-cwl-runner",
        description="Run a CWL document; inputs come from JOB, or as options behind TOOL.",
        allow_abbrev=False,
    )
    parser.add_argument("--outdir", default=".", help="put the output files here; default: this directory")
    parser.add_argument("--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument("--backend", help="where the jobs run; default: as drawbar.toml says")
    parser.add_argument(
        "--no-container", action="store_true", help="ignore images, refuse where one is required"
    )
    parser.add_argument("--home", help="keep the run in this DRAWBAR_HOME, where it can be resumed")
    parser.add_argument("--name", help="what to call the run in that home; an unfinished one is resumed")
    parser.add_argument("--target", help="the step to end with")
    parser.add_argument("--on-error", choices=("stop", "continue"), default="stop")
    parser.add_argument("--overrides", help="a file with cwltool:overrides")
    parser.add_argument("--enable-ext", action="store_true", help="cwltool's extensions of the language")
    parser.add_argument(
        "--mpi", help="what starts the processes of an MPIRequirement, for instance mpirun -n"
    )
    parser.add_argument(
        "--enable-dev", action="store_true", help="versions of the language that are not final"
    )
    parser.add_argument("--no-compute-checksum", action="store_true", help="no SHA-1 of output files")
    parser.add_argument(
        "--eval-timeout", type=float, default=60.0, help="seconds that one expression may take"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version of drawbar")
    for flag in _IGNORED:
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tmpdir-prefix", help=argparse.SUPPRESS)
    parser.add_argument("--tmp-outdir-prefix", help=argparse.SUPPRESS)
    parser.add_argument("tool", metavar="TOOL", help="a document, if need be with #fragment; or a URL")
    parser.add_argument(
        "job", metavar="JOB", nargs="?", help="a file with the input object; - for standard input"
    )
    return parser


class _Version(argparse.Action):
    """Shows the version, which takes a while to find and is not needed else."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {drawbar.__version__}")
        parser.exit()


def _leftover(asked: argparse.Namespace, rest: list[str]) -> str | None:
    """What is wrong with arguments that are no options of this command; inputs of the tool are not."""
    if rest and asked.job is not None and not asked.job.startswith("-") and Path(asked.job).is_file():
        return f"unknown arguments: {' '.join(rest)}"
    return None


def _run(asked: argparse.Namespace, rest: list[str], home_path: Path, start_engine: EngineStarter) -> int:
    plugins = load_plugins()
    environ = {**os.environ, "DRAWBAR_HOME": str(home_path)}
    if asked.backend is not None:
        environ["DRAWBAR_BACKEND"] = asked.backend
    settings = load_settings(start=Path.cwd(), environ=environ)
    home = Home(settings.home)
    backend = settings.create_backend(settings.backend, plugins)
    without_image = _HERE if backend.refuses(_PLAIN) else None
    name = asked.name or _name(asked.tool)
    document = _document(
        asked,
        rest,
        home_path / "cwl-runner" / name,
        containers=BackendFeature.CONTAINERS in backend.features,
        without_image=without_image,
    )
    analysis = load_analysis(document, engines=plugins.engines)
    wishes: dict[str, Any] = {
        "backend": None if without_image else asked.backend,
        "container": None,
        "until": None,
        "parameters": {},
        "parameters_file": None,
        "options": {},
        "workspace": None,
        "in_place": False,
        "allow_missing_outputs": False,
    }
    directory = unfinished(home, analysis, name, wishes) if asked.name else None
    if directory is None:
        directory = create_run(home, analysis, settings=settings, name=name, **wishes)
    said = _Said(quiet=asked.quiet)
    driver = Driver(
        directory,
        settings=settings,
        plugins=plugins,
        observe=said.event,
        notice=said.line,
        start_engine=start_engine,
    )
    result = _drive(driver)
    if result.state is not RunState.FINISHED or result.outputs is None:
        if isinstance(result.error, Unsupported):
            raise result.error
        sys.stderr.write(f"drawbar-cwl-runner: {result.message}\n")
        return result.exit_status or 1
    value = result.outputs.value
    workspace = Path(directory.spec().workspace)
    _publish(value, workspace / "outputs", Path(asked.outdir).absolute(), keep=bool(asked.home))
    sys.stdout.write(json.dumps(value, indent=4, ensure_ascii=False) + "\n")
    sys.stdout.flush()
    return 0


def _document(
    asked: argparse.Namespace, rest: list[str], place: Path, *, containers: bool, without_image: str | None
) -> Path:
    """An analysis that stands for the document, which is read where it is."""
    place.mkdir(parents=True, exist_ok=True)
    job, arguments = asked.job, rest
    if job is not None and rest:
        job, arguments = None, _in_order(asked.tool)
    if job == "-":
        text = sys.stdin.read()
        (place / "job.yml").write_text(text)
        job = str(place / "job.yml")
    options: dict[str, Any] = {
        "tool": _absolute(asked.tool),
        "job": None if job is None else _absolute(job),
        "arguments": arguments,
        "base": str(Path.cwd()) if job is None or asked.job == "-" else None,
        "outside": True,
        "no_container": asked.no_container or not containers,
        "without_image": without_image,
        "target": asked.target,
        "on_error": asked.on_error,
        "overrides": None if asked.overrides is None else _absolute(asked.overrides),
        "extensions": asked.enable_ext,
        "mpi": asked.mpi,
        "development": asked.enable_dev,
        "checksums": not asked.no_compute_checksum,
        "eval_timeout_s": asked.eval_timeout,
    }
    analysis = {
        "inputs": {"options": {key: value for key, value in options.items() if value is not None}},
        "workflow": {"type": "cwl", "specification": {"run": options["tool"]}},
    }
    document = place / "reana.yaml"
    document.write_text(json.dumps(analysis, indent=1))
    return document


def _in_order(tool: str) -> list[str]:
    """The arguments behind the tool, as they were given."""
    return sys.argv[sys.argv.index(tool) + 1 :]


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).absolute())


def _name(tool: str) -> str:
    stem = Path(tool.partition("#")[0]).name.partition(".")[0]
    kept = "".join(each if each.isalnum() and each.isascii() else "-" for each in stem)
    return kept.strip("-")[:60] or "tool"


class _Said:
    """Tells on standard error what happens, unless it is to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def line(self, text: str) -> None:
        """Write a line."""
        if not self._quiet:
            sys.stderr.write(f"{text}\n")

    def event(self, event: Event) -> None:
        """Tell the state of a job."""
        if event.identity is not None and event.state is not None:
            self.line(f"[job {event.identity}] {event.state}")


def _drive(driver: Driver) -> DriveResult:
    """Drive the run to its end; an interrupt cancels it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: driver.cancel())
    try:
        return driver.drive()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _publish(value: Any, results: Path, destination: Path, *, keep: bool) -> None:
    """Bring the results to where the user wants them, and let the output object say so."""
    destination.mkdir(parents=True, exist_ok=True)
    names: dict[str, None] = {}

    def visit(part: Any) -> None:
        if isinstance(part, Mapping):
            path = part.get("path")
            if part.get("class") in ("File", "Directory") and isinstance(path, str):
                relative = Path(path).relative_to(results)
                names[relative.parts[0]] = None
                moved = str(destination / relative)
                part["path"], part["location"] = moved, f"file://{quote(moved)}"  # type: ignore[index]
            for each in part.values():
                visit(each)
        elif isinstance(part, list):
            for each in part:
                visit(each)

    visit(value)
    for name in names:
        target = destination / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if not keep:
            shutil.move(results / name, target)
        elif (results / name).is_dir():
            shutil.copytree(results / name, target, symlinks=True)
        else:
            shutil.copy2(results / name, target)


if __name__ == "__main__":
    sys.exit(main())
