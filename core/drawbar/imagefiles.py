"""Images of registries as files, for a `Runtime`: each is fetched at most once at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from drawbar.images import Pull, full_name
from drawbar.runtime import Runtime

Done = Callable[[str | None], None]
"""Is told that an image is here, or why it cannot be had; on another thread."""

_AT_ONCE = 2
_MOST_S = 6 * 3600.0
_SHOWN_LINES = 3


class ImageFiles:
    """The directory `runtime.images`, which any number of drivers may share. For any thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._pull = runtime.pull
        self._room = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()  # guards what follows
        self._waiting: dict[str, list[Done]] = {}
        self._fresh: set[str] = set()
        self._processes: set[subprocess.Popen[str]] = set()
        self._closed = False

    def missing(self, image: str) -> bool:
        """Whether an image must be fetched before a job can run in it."""
        try:
            path = self._runtime.path_of(image)
        except ValueError:
            return False  # the job will be refused for it
        if path == image:
            return False
        return not Path(path).exists() or (self._pull is Pull.ALWAYS and image not in self._fresh)

    def fetch(self, image: str, done: Done) -> None:
        """Fetch an image on a thread of its own; one that is being fetched already is waited for."""
        with self._lock:
            waiting = self._waiting.setdefault(image, [])
            waiting.append(done)
            if len(waiting) > 1:
                return
        threading.Thread(target=self._work, args=(image,), name="drawbar-image", daemon=True).start()

    def close(self) -> None:
        """End what is being fetched; those who wait are told."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def _work(self, image: str) -> None:
        try:
            with self._room:
                problem = self._get(image)
        except OSError as error:
            problem = f"the image {image} cannot be kept: {error}"
        with self._lock:
            if problem is None:
                self._fresh.add(image)
            waiting = self._waiting.pop(image)
        for done in waiting:
            done(problem)

    def _get(self, image: str) -> str | None:
        if self._pull is Pull.NEVER:
            return f"the image {image} is not here, and the settings forbid to fetch it (images.pull)"
        path = Path(self._runtime.path_of(image))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held by a driver that fetches it, or was killed while it did
            if path.exists() and self._pull is not Pull.ALWAYS:
                return None
            for left in path.parent.glob(f".{path.name}.*.part"):
                left.unlink(missing_ok=True)
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            try:
                problem = self._run(image, part, lock.fileno())
                if problem is None:
                    part.replace(path)
                return problem
            finally:
                part.unlink(missing_ok=True)

    def _run(self, image: str, part: Path, lock: int) -> str | None:
        name = full_name(image)
        source = name if "://" in name else f"docker://{name}"
        with self._lock:
            if self._closed:
                return "the run ended before it was fetched"
            try:
                process = subprocess.Popen(
                    [self._runtime.program, "--silent", "pull", part, source],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                    pass_fds=(lock,),
                )
            except OSError as error:
                return f"the image {image} cannot be fetched: {error}"
            self._processes.add(process)
        try:
            _, said = process.communicate(timeout=_MOST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, said = process.communicate()
            said += f"\nit took longer than {_MOST_S / 3600:g} hours"
        finally:
            with self._lock:
                self._processes.discard(process)
        if process.returncode == 0 and part.exists():
            return None
        lines = [line.removeprefix("FATAL:").strip() for line in said.splitlines() if line.strip()]
        return (
            f"the image {image} cannot be fetched: {' '.join(lines[-_SHOWN_LINES:]) or 'no reason is told'}; "
            f"check its name, the network and `{self._runtime.program} registry login`, or name a .sif file "
            "or an unpacked directory for it in images.aliases or images.rewrites of drawbar.toml"
        )
