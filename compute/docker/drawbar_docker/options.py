"""What `drawbar.toml` may say about the docker backend."""

from __future__ import annotations

from dataclasses import dataclass

from drawbar.images import Pull
from drawbar.options import Options, option


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions(Options):
    """What `drawbar.toml` may say about the docker backend."""

    host: str | None = option(
        None, help="where the engine is, as in DOCKER_HOST; else that, the docker context, a usual socket"
    )
    pull: Pull = option(Pull.MISSING, help="when images are fetched: missing, always (once a run), never")
    network: str | None = option(None, help="the engine's network that jobs are in; its default")
    shared: tuple[str, ...] = option(
        ("/cvmfs",), help="directories of this machine that jobs may ask to see, read-only"
    )
    limit_cpus: bool = option(
        False, help="whether a job may use only the CPUs that it asks for, even when others are idle"
    )
    grace_s: float = option(10.0, help="seconds between asking a job to end (TERM) and killing it")
