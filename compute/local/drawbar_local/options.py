"""The settings of the local backend."""

from __future__ import annotations

from dataclasses import dataclass

from drawbar.options import Options, option

BASE_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TMPDIR", "TZ")
"""Variables of the driver that jobs get; the rest comes from their specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions(Options):
    """What `drawbar.toml` may say about the local backend."""

    cpus: float | None = option(None, help="CPUs that jobs may use together; all of this machine's")
    memory_mib: int | None = option(None, help="memory in MiB that jobs may use together; all there is")
    environment: tuple[str, ...] = option(
        (), help="more variables that jobs get from drawbar's environment; patterns such as CONDA_* work"
    )
    grace_s: float = option(10.0, help="seconds between asking a job to end (TERM) and killing it")
    runtime_directory: str | None = option(
        None, help="a short path for the sockets of supervisors; /tmp/drawbar-UID"
    )
