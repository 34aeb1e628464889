"""The engine's operational options."""

from __future__ import annotations

from dataclasses import dataclass

from drawbar.options import Options, option


@dataclass(frozen=True, slots=True, kw_only=True)
class CwlOptions(Options):
    """Operational options of a CWL workflow (`inputs.options`, `-o`)."""

    target: str | None = option(
        None, help="the step to end with; what it does not need is left out", aliases=("TARGET",)
    )
    on_error: str = option("stop", help="stop: the first failure ends the run; continue: what can run is run")
    retries: int = option(0, help="how often a job that ended with one of its temporaryFailCodes is repeated")
    outside: bool = option(
        False, help="documents and inputs outside of the analysis may be read, also over HTTP"
    )
    no_container: bool = option(
        False, help="ignore images that are hints, and refuse tools that require one, whatever the backend"
    )
    without_image: str | None = option(
        None, help="the backend for tools that name no image, where not one backend is asked for"
    )
    mpi: str = option(
        "mpirun -n", help="what starts the processes of an MPIRequirement: words that their number follows"
    )
    extensions: bool = option(False, help="allow cwltool's own extensions of the language")
    development: bool = option(False, help="allow versions of the language that are not final")
    checksums: bool = option(True, help="give the SHA-1 of output files in the output object")
    eval_timeout_s: float = option(60.0, help="seconds that one expression may take")
    tool: str | None = option(None, help="a document to run in place of the workflow file, by path or URL")
    job: str | None = option(
        None, help="a file with the input object, by path; relative paths in it are its own"
    )
    base: str | None = option(
        None, help="the directory that paths of the input object are relative to, instead of the workspace"
    )
    arguments: tuple[str, ...] = option((), help="the input object as arguments: --name value")
    overrides: str | None = option(None, help="a file with cwltool:overrides, by path")
