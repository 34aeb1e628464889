"""Containers that an engine has forgotten, or does not have any more, and whose processes may be alive.

An engine that is killed between starting a container and noting that calls it `created` for ever,
tells nothing of its end, and neither stops its processes nor ends them when it removes it. But the
machine's kernel knows them: each process is in a control group that is named after its container. So a
container beside it, which sees the processes of the whole machine, looks for them there, and kills
them; it is made by the engine, so that it is on the right machine, wherever drawbar is.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from drawbar.backend import Attempt
from drawbar.model import JobResult, Reason

from drawbar_docker import records, results
from drawbar_docker.containers import RUN, SHELL, user_of
from drawbar_docker.engine import Engine, EngineError
from drawbar_docker.images import ImageError, Images
from drawbar_docker.jobs import Job

ENDED = "the engine was killed as it started it, and has forgotten it; it was ended"
_MOST_S = 30.0
"""How long a process that was killed may take to be gone."""
_PAUSE_S = 0.2
_NONE, _SOME = 0, 10

_LOOK = r"""
read -r me </proc/sys/kernel/hostname
seen=20 left=0
for process in /proc/[0-9]*; do
  {
    read -r stat <"$process/stat" || continue
    case ${stat##*) } in [ZX]*) continue ;; esac
    while read -r group; do
      case $group in
        *"$1"*) left=10; kill -s KILL "${process#/proc/}" ;;
        *"$me"*) seen=0 ;;
      esac
    done <"$process/cgroup"
  } 2>/dev/null
done
exit $((left ? left : seen))
"""
"""Kills what is in the container `$1`. Ends with 0 when nothing was, with 10 when something was, and
with another code when it cannot see that, as it does not even see itself."""


def result(engine: Engine, images: Images, job: Job, message: str) -> JobResult:
    """How an attempt ended whose container is forgotten, or removed, once no process of it lives.

    A job that has not begun is kept from it, and then what an engine that was killed has left waiting to
    become it is ended, too, as far as that can be had. `Reason.HELD` says that a job's process may be
    alive. Raises a transient `BackendError` when the engine is silent, and OSError; then that may be, too.
    """
    attempt, container = job.attempt, job.container
    assert container is not None
    if found := records.get_result(attempt.record):
        return found  # by another driver, which has removed its container
    begun = not records.close_start(attempt.record)
    try:
        _end(engine, images, attempt, container)
    except (EngineError, ImageError) as error:
        if begun:
            return results.failed(attempt, Reason.HELD, _remedy(container, error), container)
    return results.lost(attempt, job.stop, message, container)


def _end(engine: Engine, images: Images, attempt: Attempt, container: str) -> None:
    image = images.look(attempt.spec.image or "")
    if image is None:
        raise EngineError(404, f"its image {attempt.spec.image} is not here any more")
    deadline = time.monotonic() + _MOST_S
    while (code := _look(engine, attempt, image.id, container)) != _NONE:
        if code != _SOME:
            raise EngineError(500, f"the engine's containers do not see its machine's processes ({code})")
        if time.monotonic() > deadline:
            raise EngineError(500, f"its processes do not end within {_MOST_S:g} s of being killed")
        time.sleep(_PAUSE_S)
    with contextlib.suppress(EngineError):
        # With no process left, an engine clears what it has forgotten before it starts a container
        # anew. The new one finds the job begun, and ends.
        engine.start(container)


def _remedy(container: str, why: Exception) -> str:
    return (
        f"the engine has forgotten its container {container[:12]}, whose processes may be alive: {why}; end "
        "each process of the engine's machine that has this id in /proc/PID/cgroup, then resume the run"
    )


def _look(engine: Engine, attempt: Attempt, image: str, container: str) -> int:
    name, facts = f"{attempt.tag}.end", engine.facts()
    host: dict[str, Any] = {"PidMode": "host", "CgroupnsMode": "host", "NetworkMode": "none"}
    if facts.remapped:
        host["UsernsMode"] = "host"
    if facts.labelled:
        host["SecurityOpt"] = ["label=disable"]
    engine.remove(name)  # what a driver that was killed here has left
    looker = engine.create(
        name,
        {
            "Image": image,
            "Entrypoint": [SHELL, "-c", _LOOK, "drawbar", container],
            "User": user_of(facts),
            "Labels": {RUN: attempt.run},
            "HostConfig": host,
        },
    )
    try:
        engine.start(looker)
        return engine.wait(looker)
    finally:
        engine.remove(looker)
