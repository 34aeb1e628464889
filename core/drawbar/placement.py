"""Which backend runs a job, and whether in its image. The one place where that is decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drawbar.backend import Backend, BackendFeature
from drawbar.engine import Placement, StepInfo, WorkflowInfo
from drawbar.errors import PluginError, Problem, SettingsError, SpecError, Unsupported, by_message
from drawbar.images import is_floating, refusal, resolve
from drawbar.model import JobSpec, Resources, WorkspaceNeed
from drawbar.plugins import Plugins
from drawbar.settings import BackendSettings, Containers, Settings

BACKEND_HINT = "compute_backend"
"""The hint, in REANA's spelling, that asks for a backend by name."""
FLOATING = "images without a version of their own, which may be others tomorrow"
"""What is said of the images of `floating_images`."""


@dataclass(slots=True)
class Placer:
    """Places jobs on the backends of one run; makes each backend object when it is first needed.

    `backend` is what the user asked for and wins over everything; `containers` is the user's word
    on images, where it differs from the settings.
    """

    settings: Settings
    plugins: Plugins
    backend: str | None = None
    containers: Containers | None = None
    backends: dict[str, Backend] = field(default_factory=dict)
    fallback: str | None = None
    """Where steps go for which nobody names a backend, where that differs from the settings."""

    def place(
        self,
        *,
        step: str,
        image: str | None = None,
        image_required: bool = False,
        library: str | None = None,
        resources: Resources = Resources(),  # noqa: B008 (frozen)
        hints: Mapping[str, Any] = {},
        workspace: WorkspaceNeed = WorkspaceNeed.SHARED,
    ) -> Placement:
        """Where a job with these needs will run.

        Raises `Unsupported` naming the step, the reason and the remedy when it can run nowhere, and
        `PluginError` or `SettingsError` when the backend asked for cannot be used.
        """
        name = self.asked(step, image, resources, hints) or self.fallback or self.settings.backend
        backend = self.get(name)
        known = self.settings.backends.get(name, BackendSettings())
        if library and known.engine_image:
            image, image_required = known.engine_image, True
        container = self._container(name, backend, step, image, image_required)
        if container and image:
            image = self._resolve(backend, step, image)
        try:
            mine = _understood(backend, hints)
            resources = backend.resources(backend.Hints.parse(mine, where=f"step {step}"), resources)
        except SettingsError as error:
            raise Unsupported(error.problems) from error
        except ValueError as error:
            raise Unsupported(Problem(message=str(error), step=step)) from error
        except Exception as error:
            raise PluginError(
                f"the backend {name!r} failed at the hints of step {step}: {error!r}"
            ) from error
        placement = Placement(
            backend=name,
            container=container,
            image=image,
            resources=resources,
            interpreter=known.engine_interpreter if library else None,
            hints={name: mine} if mine else {},
        )
        self._refuse(backend, placement, step, workspace)
        if library is not None and not _has_library(known, placement, backend):
            raise Unsupported(_without_library(step, library, placement))
        return placement

    def get(self, name: str) -> Backend:
        """The backend of a name that settings or plugins know, made once."""
        if name not in self.backends:
            self.backends[name] = self.settings.create_backend(name, self.plugins, containers=self.containers)
        return self.backends[name]

    @property
    def choice(self) -> Containers:
        """How images are used."""
        return self.containers or self.settings.containers

    def follow(self, backend: str, containers: Containers) -> None:
        """Use what was chosen for the run, before any job is handed over."""
        self.fallback, self.containers = backend, containers
        for name, each in list(self.backends.items()):
            if BackendFeature.RUNTIME in each.features:
                del self.backends[name]  # made anew as `containers` says

    def asked(
        self, step: str, image: str | None, resources: Resources, hints: Mapping[str, Any]
    ) -> str | None:
        """The backend that user, step or site policy name for a step, or None."""
        if self.backend is not None:
            return self.backend
        wish = hints.get(BACKEND_HINT)
        if wish is None and not self.plugins.policy:
            return None
        known = [*self.settings.backends, *(set(self.plugins.backends) - set(self.settings.backends))]
        if wish is not None:
            if not isinstance(wish, str) or wish not in known:
                raise Unsupported(
                    Problem(
                        message=f"asks for the backend {wish!r}, and there is none of that name",
                        step=step,
                        hint=f"name one in drawbar.toml as [backends.{wish}], or choose with --backend: "
                        + ", ".join(sorted(known)),
                    )
                )
            return wish
        return self.plugins.place(step=step, image=image, resources=resources, hints=hints, backends=known)

    def _resolve(self, backend: Backend, step: str, image: str) -> str:
        """The image to run for one that is named, if it may be."""
        policy = self.settings.images
        try:
            resolved = resolve(image, policy, files=backend.runtime is not None)
        except ValueError as error:
            hint = "correct it, or name another for it in images.aliases of drawbar.toml"
            raise Unsupported(Problem(message=str(error), step=step, hint=hint)) from error
        if why := refusal(resolved, policy):
            hint = f"use one that fits {', '.join(policy.allow)}, or ask whoever runs the site to allow it"
            raise Unsupported(Problem(message=why, step=step, hint=hint))
        return resolved

    def _container(
        self, name: str, backend: Backend, step: str, image: str | None, image_required: bool
    ) -> bool:
        if image is None:
            return False
        if self.choice is Containers.NONE:
            return False
        if backend.runtime is not None or BackendFeature.CONTAINERS in backend.features:
            return True
        if not image_required:
            return False
        raise Unsupported(
            Problem(
                message=f"needs the image {image}, and the backend {name!r} has no containers",
                step=step,
                hint="run it without images with --no-container, or choose a backend that has them with "
                "--backend, or a program for them with --container apptainer",
            )
        )

    def _refuse(self, backend: Backend, placement: Placement, step: str, workspace: WorkspaceNeed) -> None:
        probe = JobSpec(
            identity=step,
            name=step,
            step=step,
            argv=("true",),
            directory="/",
            canonical=None,
            image=placement.image if placement.container else None,
            resources=placement.resources,
            hints=placement.hints,
            workspace=workspace,
        )
        try:
            why = backend.refuses(probe)
        except Exception as error:
            name = placement.backend
            raise PluginError(f"the backend {name!r} failed to judge step {step}: {error!r}") from error
        if why:
            message = f"cannot run on the backend {placement.backend!r}: {why}"
            raise Unsupported(
                Problem(message=message, step=step, hint="ask for less, or choose another with --backend")
            )


def _understood(backend: Backend, hints: Mapping[str, Any]) -> dict[str, Any]:
    names = {name for info in backend.Hints.declared() for name in (info.name, *info.aliases)}
    return {name: value for name, value in hints.items() if name in names}


def _has_library(known: BackendSettings, placement: Placement, backend: Backend) -> bool:
    """Whether somebody says that the engine's library is where a job will run; nobody looks into images."""
    if placement.container:
        return known.engine_image is not None
    return known.engine_interpreter is not None or BackendFeature.THIS_HOST in backend.features


def _without_library(step: str, library: str, placement: Placement) -> Problem:
    table = f"[backends.{placement.backend}] in drawbar.toml"
    if placement.container:
        where = f"the image {placement.image}"
        hint = f"name an image that has both, as engine_image under {table}, or run it with --no-container"
    else:
        where = f"a worker of the backend {placement.backend!r}"
        hint = f"name a Python that has it as engine_interpreter, or an image as engine_image, under {table}"
    return Problem(
        message=f"needs {library} where it runs, and nothing says that {where} has it",
        step=step,
        hint=f"{hint}; an option of the engine may say it for one analysis",
    )


def check_places(placer: Placer, info: WorkflowInfo) -> list[tuple[StepInfo, Placement]]:
    """Every step with where it will run, before the first job.

    Raises `SpecError` with a problem for each step that can run nowhere.
    """
    found: list[tuple[StepInfo, Placement]] = []
    problems: list[Problem] = []
    for step, place in places(placer, info):
        if isinstance(place, SpecError):
            problems += place.problems
        elif place is not None:
            found.append((step, place))
    if problems:
        raise SpecError(by_message(problems))
    return found


def ignored_images(placed: Sequence[tuple[StepInfo, Placement]]) -> list[str]:
    """The images that steps name and run without."""
    return list(dict.fromkeys(step.image for step, place in placed if step.image and not place.container))


def floating_images(placed: Sequence[tuple[StepInfo, Placement]]) -> list[str]:
    """The images that are used and have no version of their own: what they are changes with time."""
    used = (place.image for _, place in placed if place.image and place.container)
    return list(dict.fromkeys(image for image in used if is_floating(image)))


def remarks(placed: Sequence[tuple[StepInfo, Placement]]) -> Iterator[str]:
    """What a user should know about the images of steps before they run."""
    if ignored := ignored_images(placed):
        yield f"runs without containers; images are ignored: {', '.join(ignored)}"
    if floating := floating_images(placed):
        yield f"{FLOATING}: {', '.join(floating)}"


def places(placer: Placer, info: WorkflowInfo) -> Iterator[tuple[StepInfo, Placement | SpecError | None]]:
    """For each step where it will run, or why it cannot; None where it makes no jobs."""
    for step in info.steps:
        if step.jobs == 0:
            yield step, None
            continue
        try:
            yield (
                step,
                placer.place(
                    step=step.name,
                    image=step.image,
                    image_required=step.image_required,
                    library=step.library,
                    resources=step.resources,
                    hints=step.hints,
                    workspace=step.workspace,
                ),
            )
        except SpecError as error:
            yield step, error
