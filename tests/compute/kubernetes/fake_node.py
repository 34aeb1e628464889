"""What the fake cluster's node runs: processes of this machine in the place of containers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path


def begin(pod: dict, place: str, moved: str) -> subprocess.Popen:
    """What a container would run, as a process of this machine."""
    container = pod["spec"]["containers"][0]
    command = [text.replace("$$", "$") for text in command_of(container)]
    if place:
        command = [text.replace(place, moved) for text in command]
    environment = {"PATH": os.environ["PATH"], "HOME": "/"}
    for each in container.get("env", ()):
        environment[each["name"]] = each.get(
            "value", pod["metadata"]["name"]
        )  # the one field that is referred to
    index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index")
    if index is not None:
        environment["JOB_COMPLETION_INDEX"] = index
    return subprocess.Popen(
        command,
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def command_of(container: dict) -> list[str]:
    """What an image without an entry point is started with."""
    return container.get("command") or container["args"]


def pretend(pod: dict) -> int:
    """What a job that does nothing leaves in its directory."""
    command = command_of(pod["spec"]["containers"][0])
    size, records = int(command[6]), command[7::2]
    index = pod["metadata"].get("annotations", {}).get("batch.kubernetes.io/job-completion-index", 0)
    for record in records[int(index) * size :][:size]:
        Path(record, "started").write_text(f"pod={pod['metadata']['name']}\nstarted={time.time()}\n")
        Path(record, "end").write_text(f"exit=0\nwhy=\nstarted={time.time()}\ncomplete=yes\n")
    return 0


def last_words(process: subprocess.Popen) -> str:
    """What a container has said in its log; to be called when nothing of it lives."""
    with process.stderr as log:
        return log.read().decode(errors="replace").strip()


def send(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def kill_after(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        send(process, signal.SIGKILL)
