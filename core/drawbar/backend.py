"""The contract of a compute backend, for its authors.

A backend is a class with plain blocking methods. drawbar calls them on worker threads of that
backend: one thread for `submit`, one for `find`, `cancel` and `forget`, each call with a deadline.
What happens to jobs is told through the `EventSink` given to `start`, from any thread.

A third party's backend passes `drawbar.testing.BackendContract` before any cluster has seen it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from drawbar.errors import Problem
from drawbar.model import JobResult, JobSpec, JobState, Reason, Resources
from drawbar.options import Options as BaseOptions

if TYPE_CHECKING:
    from drawbar.runtime import Runtime

API = 1
"""The version of the plugin API that this drawbar speaks."""


class BackendFeature(StrEnum):
    """What a backend can do beyond running a command in a shared workspace."""

    CONTAINERS = "containers"  # runs a job in its image
    RUNTIME = "runtime"  # runs a job in its image by means of a program such as Apptainer, when told to
    MEMORY_LIMIT = "memory-limit"  # ends a job above its memory limit, and proves it
    WALLTIME = "walltime"  # ends a job above its wall time
    GPUS = "gpus"
    NO_NETWORK = "no-network"  # can cut a job off the network
    THIS_HOST = "this-host"  # a job without an image runs here, with the programs of this machine
    SURVIVES_DRIVER = "survives-driver"  # jobs outlive the driver and can be found again


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How much a backend can run at once, where that is known; None means no bound."""

    cpus: float | None = None
    memory_mib: int | None = None
    jobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at executing a job.

    `tag` is unique over all runs and stable: a repeated submit of one tag is one job. `record` is a
    directory of this attempt alone for its logs and completion record; it does not exist before the
    submit, and whoever starts the job makes it (atomically: a second copy of the job finds it and
    exits). `workspace` is the run's directory, at the same path everywhere.
    """

    tag: str
    run: str
    number: int
    record: str
    workspace: str
    spec: JobSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The backend has the job."""

    native_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The backend does not have the job, and never will for this attempt."""

    message: str
    reason: Reason = Reason.REJECTED


@dataclass(frozen=True, slots=True, kw_only=True)
class InDoubt:
    """The backend may or may not have the job; drawbar looks the tag up until it is known."""

    message: str


Submission = Accepted | Refused | InDoubt


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """What a backend knows of an attempt. A terminal state comes with its result."""

    tag: str
    state: JobState
    native_state: str = ""
    native_id: str = ""
    message: str = ""
    result: JobResult | None = None

    def __post_init__(self) -> None:
        if self.state.terminal != (self.result is not None):
            raise ValueError(f"{self.tag}: a job in state {self.state} has a result exactly when it ended")
        if self.result is not None and self.result.state is not self.state:
            raise ValueError(f"{self.tag}: state {self.state} does not fit the result's {self.result.state}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundImage:
    """What a backend knows of an image. `digest` names its content, whatever its tag comes to mean."""

    here: bool
    digest: str | None = None


class EventSink(Protocol):
    """Where a backend tells what happened; every method may be called from any thread."""

    def status(self, statuses: Sequence[JobStatus]) -> None:
        """Attempts changed state; repeated and skipped states are fine, going back is not."""

    def trouble(self, message: str) -> None:
        """The backend cannot see its jobs at the moment; it shows in `status`, and fails nothing."""


class Backend(ABC):
    """A place that executes jobs. Subclasses set `name`, `api`, and what differs from the defaults."""

    name: ClassVar[str]
    api: ClassVar[int]
    features: ClassVar[frozenset[BackendFeature]] = frozenset()
    Options: ClassVar[type[BaseOptions]] = BaseOptions
    """What `drawbar.toml` may say about this backend."""
    Hints: ClassVar[type[BaseOptions]] = BaseOptions
    """What a step may say to this backend; REANA's spellings are aliases of its fields."""
    deadline_s: ClassVar[float] = 60.0
    """How long one call of a method may take before drawbar stops waiting for it."""
    grace_s: ClassVar[float] = 30.0
    """How long after a submit in doubt a job that `find` does not see may still turn up."""

    runtime: Runtime | None = None
    """The program that jobs run in their images with; set, before anything is asked, for a backend that
    declares `RUNTIME` where settings or user choose one. Without it such a backend runs them without."""

    def __init__(self, options: BaseOptions) -> None:
        self.options = options

    def check(self) -> Sequence[Problem]:
        """Whether the backend can be used now. No side effects that stay; empty when all is well."""
        return ()

    def capacity(self) -> Capacity:
        """How much can run at once; drawbar keeps the rest in its own queue."""
        return Capacity()

    def resources(self, hints: BaseOptions, resources: Resources) -> Resources:
        """What a step asks for, with what its hints to this backend (a `Hints`) change in it."""
        return resources

    def refuses(self, spec: JobSpec) -> str | None:
        """Why this backend can never run `spec`, or None. Pure: called for `plan`, before the first job.

        A job that is refused here is not submitted.
        """
        return None

    def find_image(self, image: str) -> FoundImage | None:
        """Whether an image is here, and which one it is; None when this backend cannot tell.

        Fetches nothing. An exception means that nothing is known now. May be called before `start`.
        """
        return None if self.runtime is None else self.runtime.find(image)

    def fetch_image(self, image: str, progress: Callable[[str], None]) -> str | None:
        """Have an image here, as the pull policy says; its digest, or None when that is not known.

        The digest is part of the keys of the jobs that run in the image, and means the same image for as
        long as this object lives. Called before such a job is submitted, on a thread of its own, and
        perhaps for several images at once. `progress` takes a sentence, again and again. What is
        raised fails nothing: the jobs will.
        """
        if self.runtime is not None:
            return self.runtime.fetch(image, progress)
        found = self.find_image(image)
        return found.digest if found else None

    def start(self, events: EventSink) -> None:
        """Begin to watch. Called once, before any method that takes attempts."""

    @abstractmethod
    def submit(self, attempts: Sequence[Attempt]) -> Sequence[Submission]:
        """Hand a batch over; one answer per attempt, in order.

        Accepted: the job exists and its events will come. Refused: it does not exist and will not.
        InDoubt: either may hold. An exception means that all of the batch is in doubt. A tag that is
        known already is accepted again and starts nothing. Events may come before this returns.
        """

    @abstractmethod
    def find(self, attempts: Sequence[Attempt]) -> Mapping[str, JobStatus]:
        """The truth about attempts by tag, in one query: after a crash, a silence, a doubt.

        A tag that is missing in the answer is proven not to exist here, and never will: it did not
        arrive, or it is gone without a record. To be sure of that, a backend may close what it did not
        find to a late copy of its submit. An exception means that nothing is known. Events of attempts
        found alive come from now on. Asked about a tag after its `submit` has returned or passed its
        deadline.
        """

    @abstractmethod
    def cancel(self, attempts: Sequence[Attempt]) -> None:
        """Ask for attempts to be stopped. Idempotent; ended and unknown ones are ignored.

        The end itself comes as an event, with reason cancelled unless the job ended by itself first.
        """

    def forget(self, attempts: Sequence[Attempt]) -> None:
        """The results of these attempts are durable: what the backend kept for them may go."""

    def close(self) -> None:
        """Stop watching and release what this object holds.

        Jobs stay alive where the backend declares `SURVIVES_DRIVER`, and are ended elsewhere.
        """


def options_of(backend: type[Backend], values: Mapping[str, Any]) -> BaseOptions:
    """The backend's own options from a settings table; `SettingsError` names each wrong key."""
    return backend.Options.parse(values, where=f"backend {backend.name}")
