"""The container of a job: what the engine is asked to make."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from drawbar.backend import Attempt
from drawbar.model import JobSpec
from drawbar.mounts import mounts_of, umask

from drawbar_docker import records
from drawbar_docker.engine import Engine, Facts
from drawbar_docker.images import Image

TAG = "drawbar.tag"
RUN = "drawbar.run"
JOB = "drawbar.job"
RECORD = "drawbar.record"
IMAGE = "drawbar.image"
"""Labels of every container: its attempt's tag and directory, its run, its job's name, its image's digest."""

SHELL = "/bin/sh"
_CLAIM = 'umask "$2"; set -C; : >"$1" || exit 125; set +C; i=$3 o=$4 e=$5; '
_PIPE = """\
exec 3<"$i"
if command -v cat >/dev/null && mkfifo "$1.stdin" 2>/dev/null; then
  (cat <&3 >"$1.stdin" &)
  exec 3<"$1.stdin"
  rm -f "$1.stdin"
fi
"""
STREAMS = '2>"$e"'
SAME_STREAM = "2>&1"
"""What the shell does: it takes the attempt, once and for all, and connects the job's streams to its
files, which are so written to without drawbar, byte for byte. Standard input from a file is a pipe where
the image has what that needs, as it is with `docker run -i`: programs tell the two apart."""


def by_tag(engine: Engine, runs: Collection[str] = ()) -> dict[str, Mapping[str, Any]]:
    """The engine's containers of attempts: of these runs, and perhaps of others too."""
    labels = [f"{RUN}={run}" for run in runs if len(runs) == 1]
    return {each["Labels"][TAG]: each for each in engine.containers(TAG, *labels)}


def stdout_of(attempt: Attempt) -> str:
    """Where the job's standard output goes."""
    return attempt.spec.stdout or f"{attempt.record}/stdout"


def stderr_of(attempt: Attempt) -> str:
    """Where the job's standard error goes."""
    return attempt.spec.stderr or f"{attempt.record}/stderr"


def configuration(
    attempt: Attempt,
    *,
    image: Image,
    facts: Facts,
    network: str | None,
    limit_cpus: bool,
) -> dict[str, Any]:
    """The body of the engine's `create` for an attempt; `network` is where its jobs are."""
    spec = attempt.spec
    environment = {**({} if "HOME" in image.environment else {"HOME": "/tmp"}), **spec.environment}  # noqa: S108
    host: dict[str, Any] = {
        "Mounts": list(_mounts(attempt)),
        "Init": True,  # else the job were process 1, which signals of its own do not end
        "NetworkMode": (network or "default") if spec.network else "none",
        "CpuShares": max(2, min(262144, round(1024 * spec.resources.cpus))),
        # What the job itself prints is in its files: this holds only why it could not be started.
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "64k"}},
        "GroupAdd": [] if facts.rootless else [str(group) for group in os.getgroups()],
    }
    if limit_cpus:
        host["NanoCpus"] = round(1e9 * spec.resources.cpus)
    if limit := spec.resources.memory_limit_mib:
        host["Memory"] = host["MemorySwap"] = limit << 20
    if spec.resources.gpus:
        host["DeviceRequests"] = [{"Count": spec.resources.gpus, "Capabilities": [["gpu"]]}]
    if facts.remapped:
        host["UsernsMode"] = "host"
    if facts.labelled:
        host["SecurityOpt"] = ["label=disable"]
    return {
        "Image": image.id,
        "Entrypoint": [SHELL, "-c", *_streams(attempt)],
        "Cmd": [*(image.entry_point if spec.entry_point else ()), *spec.argv],
        "Env": [f"{name}={value}" for name, value in environment.items()],
        "WorkingDir": spec.directory,
        "User": user_of(facts),
        "Labels": {
            TAG: attempt.tag,
            RUN: attempt.run,
            JOB: spec.name,
            RECORD: attempt.record,
            IMAGE: image.digest,
        },
        "HostConfig": host,
        "StopSignal": "SIGTERM",
    }


def user_of(facts: Facts) -> str:
    """Who a job is inside, so that its files and its processes belong to this user outside."""
    return "0:0" if facts.rootless else f"{os.getuid()}:{os.getgid()}"


def cannot_run(spec: JobSpec) -> str | None:
    """Why no container can run a job like this, or None."""
    if spec.image is None:
        return "it has no image to run in"
    return None


def _mounts(attempt: Attempt) -> Iterator[dict[str, Any]]:
    for mount in mounts_of(attempt):
        yield {
            "Type": "bind",
            "Source": mount.source,
            "Target": mount.target,
            "ReadOnly": mount.read_only,
        }


def _streams(attempt: Attempt) -> list[str]:
    spec, out, err = attempt.spec, stdout_of(attempt), stderr_of(attempt)
    source = f'{_PIPE}shift 5; exec "$@" <&3 3<&-' if spec.stdin else 'shift 5; exec "$@" <"$i"'
    return [
        f'{_CLAIM}{source} >"$o" {SAME_STREAM if out == err else STREAMS}',
        "drawbar",
        records.start_of(attempt.record),
        f"{umask():04o}",
        spec.stdin or "/dev/null",
        out,
        err,
    ]
