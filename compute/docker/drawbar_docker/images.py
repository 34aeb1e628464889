"""Images: whether they are here, fetching them, and which ones exactly they are."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from drawbar.errors import BackendError
from drawbar.images import Pull, full_name, is_file, split

from drawbar_docker.engine import Engine, EngineError

Progress = Callable[[str], None]

_FETCHES = 3
"""How many images are fetched at once."""
_TRIES = 3
_REPORT_S = 1.0
_FOR_GOOD = re.compile(
    "not found|unknown|denied|unauthori[sz]ed|forbidden|no matching manifest|invalid|no such", re.IGNORECASE
)


class ImageError(Exception):
    """An image cannot be had; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is here."""

    id: str
    digest: str
    """What names its content everywhere: the registry's digest, or the id of one that is only here."""
    environment: Mapping[str, str]
    entry_point: tuple[str, ...] = ()


class Images:
    """The images of an engine. Each is looked for, and fetched, at most once at a time."""

    def __init__(self, engine: Engine, policy: Pull) -> None:
        self._engine = engine
        self._policy = policy
        self._lock = threading.Lock()
        self._images: dict[str, Future[Image]] = {}
        self._listeners: dict[str, list[Progress]] = {}
        self._room = threading.BoundedSemaphore(_FETCHES)
        self._closed = False

    def ensure(self, name: str, progress: Progress = lambda _: None) -> Future[Image]:
        """The image of a name, fetched if need be.

        The future fails with `ImageError`, or with a transient `BackendError` when the engine does
        not answer; a failure is not remembered. `progress` may be told how far fetching is.
        """
        with self._lock:
            known = self._images.get(name)
            if known is not None and not (known.done() and known.exception()):
                if not known.done():
                    self._listeners[name].append(progress)
                return known
            self._listeners[name] = [progress]
            self._images[name] = future = Future[Image]()
        # What fetches may be stuck in a registry: it must not keep the program from ending.
        threading.Thread(
            target=self._work, args=(name, future), name="drawbar-docker-image", daemon=True
        ).start()
        return future

    def drop(self, name: str) -> None:
        """The engine says that it does not have this image any more."""
        with self._lock:
            self._images.pop(name, None)

    def look(self, name: str) -> Image | None:
        """The image of a name if it is here; nothing is fetched."""
        reference = reference_of(name)
        _, at, digest = reference.partition("@")
        for candidate in (reference, digest) if at else (reference,):
            found = self._engine.image(candidate)
            if found is not None:
                return _image(reference, found)
        return None

    def close(self) -> None:
        """Fetch nothing more."""
        self._closed = True

    def _work(self, name: str, future: Future[Image]) -> None:
        with self._room:
            try:
                if self._closed:
                    raise BackendError("the docker backend is closed", transient=True)
                image = self._get(name)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(image)

    def _get(self, name: str) -> Image:
        here = self.look(name)
        if self._policy is Pull.NEVER or (
            here is not None and (self._policy is Pull.MISSING or "sha256:" in name)
        ):
            if here is None:
                raise ImageError(f"the image {name} is not here, and the settings forbid to fetch it")
            return here
        if name.startswith("sha256:"):
            raise ImageError(f"the image {name} is not here, and it cannot be fetched by its id")
        for remaining in reversed(range(_TRIES)):
            try:
                self._fetch(name)
                break
            except EngineError as error:
                if remaining and not _FOR_GOOD.search(str(error)):
                    time.sleep(_TRIES - remaining)
                    continue
                if here is not None:
                    return here  # not fetched anew, but as good as before
                raise ImageError(
                    f"the image {name} cannot be fetched: {error}; check its name and `docker login`, "
                    "or name another for it in images.aliases of drawbar.toml"
                ) from error
        here = self.look(name)
        if here is None:
            raise ImageError(f"the image {name} was fetched, and is not here")
        return here

    def _fetch(self, name: str) -> None:
        repository, tag, digest = split(reference_of(name))
        layers: dict[str, tuple[int, int]] = {}
        told = 0.0
        self._tell(name, f"fetching the image {name}")
        for report in self._engine.pull(repository, digest or tag or "latest"):
            if "error" in report:
                raise EngineError(500, str(report["error"]).strip())
            detail: Any = report.get("progressDetail") or {}
            if report.get("status") == "Downloading" and detail.get("total"):
                layers[report.get("id", "")] = (detail.get("current", 0), detail["total"])
            if layers and time.monotonic() - told > _REPORT_S:
                told = time.monotonic()
                done, total = map(sum, zip(*layers.values(), strict=True))
                self._tell(name, f"fetching the image {name}: {done >> 20} of {total >> 20} MiB")

    def _tell(self, name: str, text: str) -> None:
        with self._lock:
            listeners = list(self._listeners.get(name, ()))
        for listener in listeners:
            listener(text)


def reference_of(name: str) -> str:
    """The full name of an image. Raises `ImageError` when an engine has no images like it."""
    try:
        reference = full_name(name)
        if is_file(reference) or "://" in reference:
            raise ValueError(f"{name} is no image of a registry, and a container engine runs only those")
    except ValueError as error:
        raise ImageError(f"{error}; name another for it in images.aliases of drawbar.toml") from error
    return reference


def _digest(reference: str, found: Mapping[str, Any]) -> str | None:
    """What the registry of a reference calls the image, if it came from one."""
    repository = split(reference)[0]
    known = [each.rpartition("@") for each in found.get("RepoDigests") or ()]
    own = [digest for name, _, digest in known if _repository(name) == repository]
    return min(own or [digest for _, _, digest in known], default=None)


def _repository(name: str) -> str | None:
    try:
        return split(full_name(name))[0]
    except ValueError:
        return None  # an engine has a word of its own for an image without a name


def _image(reference: str, found: Mapping[str, Any]) -> Image:
    config = found.get("Config") or {}
    variables = (each.partition("=") for each in config.get("Env") or ())
    try:
        identifier = str(found["Id"])
    except KeyError as error:
        raise BackendError(f"the engine does not say which image {reference} is") from error
    identifier = identifier if ":" in identifier else f"sha256:{identifier}"
    return Image(
        id=identifier,
        digest=_digest(reference, found) or identifier,
        environment={name: value for name, _, value in variables},
        entry_point=tuple(config.get("Entrypoint") or ()),
    )
