"""Images of registries as files, in a directory that any number of drivers may share.

Each is fetched at most once at a time, and never half there. What a file is called follows from the
image's name.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from drawbar.digests import Digests
from drawbar.errors import BackendError
from drawbar.images import Pull, full_name, is_file
from drawbar.logins import login

_MOST_S = 6 * 3600.0
_SHOWN_LINES = 3
_DIGESTS = ".digests"
_LABELS = ".singularity.d/labels.json"


def place_of(image: str, directory: str) -> str:
    """Where an image is, or will be when it has been fetched. ValueError for what names none."""
    if image.startswith("/"):
        return image
    if is_file(image):
        raise ValueError(f"the image {image!r} needs a path that begins with /")
    name = full_name(image)
    unique = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{directory}/{re.sub('[^A-Za-z0-9.-]', '_', name)[-80:]}-{unique}.sif"


def digest_of(image: Path, directory: Path) -> str:
    """What names the content of an image: a file's SHA-256, the place that a directory's path leads to.

    On CVMFS that place has the image's digest in its name. Elsewhere the labels that the program wrote
    when it made the directory, with the time, tell that it was made anew; what is changed in it
    by hand is not noticed. The digests of files are remembered in `directory`. Raises OSError,
    SpecError and InfrastructureError when the image cannot be read.
    """
    if image.is_dir():
        labels = image / _LABELS
        made = f"@sha256:{hashlib.sha256(labels.read_bytes()).hexdigest()}" if labels.is_file() else ""
        return f"directory:{os.path.realpath(image)}{made}"
    with contextlib.suppress(OSError):  # without a memory the file is read again
        directory.mkdir(parents=True, exist_ok=True)
    digests = Digests(directory / _DIGESTS)
    try:
        return f"sha256:{digests.file(image)}"
    finally:
        digests.close()


def forbidden(image: str) -> str:
    """What is said of an image that is not here, and may not be fetched."""
    return f"the image {image} is not here, and images.pull forbids to fetch it"


def fetch(image: str, path: Path, program: str, pull: Pull, progress: Callable[[str], None]) -> None:
    """Have the image of a registry at `path`, as `pull` says; another driver that fetches it is waited for.

    Raises BackendError with the program's words and the remedy when it cannot be had; then what was
    there before still is.
    """
    if path.exists() and pull is not Pull.ALWAYS:
        return
    if pull is Pull.NEVER:
        raise BackendError(forbidden(image))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            progress(f"fetching the image {image}")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists() and pull is not Pull.ALWAYS:
                return
            for left in path.parent.glob(f".{path.name}.*.part"):
                left.unlink(missing_ok=True)
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            try:
                problem = _run(program, image, part)
                if problem is None:
                    part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise BackendError(f"the image {image} cannot be kept in {path.parent}: {error}") from error
    if problem is not None:
        raise BackendError(
            f"the image {image} cannot be fetched: {problem}; check its name, the network and "
            f"`{program} registry login`, or name a .sif file or an unpacked directory for it in "
            "images.aliases or images.rewrites of drawbar.toml"
        )


def _run(program: str, image: str, target: Path) -> str | None:
    """Fetch an image into a file; what went wrong, or None. The program ends with this process."""
    name = full_name(image)
    source = name if "://" in name else f"docker://{name}"
    try:
        credentials, unknown = _credentials(program, source), ""
    except (OSError, ValueError) as error:  # many images can be had without
        credentials, unknown = {}, f"; the user's docker configuration is of no use: {error}"
    bound = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    try:
        done = subprocess.run(
            [*bound, program, "--silent", "pull", target, source],
            env={**credentials, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_MOST_S / 3600:g} hours"
    if done.returncode == 0 and target.exists():
        return None
    lines = [line.removeprefix("FATAL:").strip() for line in done.stderr.splitlines() if line.strip()]
    return (" ".join(lines[-_SHOWN_LINES:]) or f"{program} ended with {done.returncode}") + unknown


def _credentials(program: str, source: str) -> dict[str, str]:
    """Variables by which the program logs in to an image's registry as the user's docker does.

    Programs read `~/.docker/config.json`, but not what DOCKER_CONFIG names.
    """
    scheme, _, name = source.partition("://")
    found = login(name.partition("/")[0]) if scheme == "docker" else None
    if found is None:
        return {}
    prefix = "SINGULARITY" if "singularity" in Path(program).name else "APPTAINER"
    return {f"{prefix}_DOCKER_USERNAME": found[0], f"{prefix}_DOCKER_PASSWORD": found[1]}
