"""What `drawbar.toml`, the environment and the command line decide, each setting declared once.

Levels, later wins: default, system file, user file, project file, environment, command line. The
project file is the `drawbar.toml` next to an analysis; no parent directory is searched. It comes
with the analysis and is as untrusted as that, so it may set only what cannot widen what the analysis
may do here: the settings declared with `project=True`.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drawbar.backend import BackendFeature
from drawbar.errors import PluginError, Problem, SettingsError, Severity
from drawbar.images import Pull
from drawbar.layers import (
    Layer,
    Name,
    assemble,
    declared,
    dotted,
    is_mapping,
    is_table,
    nested,
    others,
    setting,
    walk,
)
from drawbar.model import Keep, RetryPolicy
from drawbar.options import did_you_mean
from drawbar.runtime import PROGRAMS, Runtime

if TYPE_CHECKING:
    from drawbar.backend import Backend
    from drawbar.plugins import Plugins

FILE = "drawbar.toml"
SYSTEM_FILE = Path("/etc/drawbar") / FILE
OTHER_VARIABLES = frozenset({"DRAWBAR_PLUGINS", "DRAWBAR_SYSTEM_CONFIG", "DRAWBAR_TRACEBACK"})
"""Variables that drawbar reads and that are no settings."""
HIDDEN = "(not shown)"

_MAX_BYTES = 256 * 1024


class Containers(StrEnum):
    """How a job's image is used where the backend leaves a choice."""

    AUTO = "auto"
    NONE = "none"
    DOCKER = "docker"
    APPTAINER = "apptainer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may be going on at once; None is no bound."""

    jobs_in_flight: int | None = setting(None, minimum=1, help="jobs handed over and not ended")
    cpus: float | None = setting(None, minimum=1, help="cores that these jobs ask for together")
    memory_mib: int | None = setting(None, minimum=1, help="memory that these jobs ask for together, in MiB")
    submissions_per_minute: float | None = setting(None, minimum=1, help="jobs handed over in a minute")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine process may take before its run ends with a reason."""

    silence_s: float = setting(
        900.0, minimum=1, help="seconds that an engine with no job in flight may do nothing visible"
    )
    memory_mib: int | None = setting(None, minimum=64, help="address space of an engine process, in MiB")
    output_mib: int = setting(64, minimum=1, help="what an engine may print in one run, in MiB")


_RETRY = RetryPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often an attempt is repeated where the workflow says nothing about it."""

    infrastructure: int = setting(
        _RETRY.infrastructure, minimum=0, project=True, help="times, after evicted, node-lost and lost"
    )
    temporary: int = setting(
        _RETRY.temporary,
        minimum=0,
        project=True,
        help="times, after a code that the workflow calls temporary",
    )
    out_of_memory: int = setting(
        _RETRY.out_of_memory, minimum=0, project=True, help="times, after out-of-memory, with more memory"
    )
    memory_factor: float = setting(
        _RETRY.memory_factor, minimum=1, project=True, help="what memory grows by after out-of-memory"
    )

    @property
    def policy(self) -> RetryPolicy:
        """The same as the job model has it."""
        return RetryPolicy(
            infrastructure=self.infrastructure,
            temporary=self.temporary,
            out_of_memory=self.out_of_memory,
            memory_factor=self.memory_factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What site and user say about container images."""

    pull: Pull = setting(Pull.MISSING, help="when images are fetched")
    allow: tuple[str, ...] = setting(
        (), help="patterns of full names, with `*`; when there are any, only such images are run"
    )
    aliases: Mapping[str, str] = setting({}, project=True, help="the image to use instead of the one named")
    rewrites: Mapping[str, str] = setting({}, help="what to put for the beginning of an image's full name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Apptainer:
    """How jobs run in their images without a container engine."""

    program: str | None = setting(None, help="a name on PATH, or a path; apptainer, else singularity")
    shared: tuple[str, ...] = setting((), help="directories that every such job sees, for reading only")
    images: Path | None = setting(None, help="where images of registries are kept; `images` in the home")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is said about one engine."""

    interpreter: Path | None = setting(None, help="the Python that runs this engine, when not drawbar's own")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """What is said about one named backend; `options` are those of its kind, not checked yet."""

    kind: str | None = setting(None, help="which backend this is; its own name when left out")
    limits: Limits = setting(Limits(), help="bounds for this backend, besides the general ones")
    engine_interpreter: str | None = setting(
        None, help="the Python on its workers that has the workflow engine's library, for jobs that need it"
    )
    engine_image: str | None = setting(None, help="the image that has that library, for jobs that need it")
    options: Mapping[str, Any] = others()


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """A line of `drawbar config`; the value of a secret is not in it."""

    name: str
    value: Any
    origin: str
    help: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting. `load_settings` makes it; `origins` says by dotted name where a value is from."""

    home: Path = setting(
        help="where runs and their store live; by default `drawbar` in the XDG data directory"
    )
    backend: str = setting("local", project=True, help="the backend for jobs that name none")
    containers: Containers = setting(
        Containers.AUTO, help="how images are used: as the backend does, not at all, or with this program"
    )
    keep: Keep = setting(Keep.ALL, project=True, help="what of a workspace stays after its run")
    cache: bool = setting(False, project=True, help="whether jobs of other runs may answer for equal ones")
    unschedulable_s: float = setting(
        604800.0, minimum=1, project=True, help="seconds that a job may wait at a backend before it fails"
    )
    limits: Limits = setting(Limits(), help="bounds over all backends together")
    retry: Retry = setting(Retry(), help="how often attempts are repeated")
    images: Images = setting(Images(), help="container images")
    apptainer: Apptainer = setting(Apptainer(), help="the program that runs images")
    engine: EngineLimits = setting(EngineLimits(), help="bounds of every engine process")
    engines: Mapping[str, EngineSettings] = setting({}, help="engines by name")
    backends: Mapping[str, BackendSettings] = setting(
        {}, help="named backends, several of one kind if need be"
    )
    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    warnings: tuple[Problem, ...] = field(default=(), repr=False, compare=False)

    @property
    def names_backend(self) -> bool:
        """Whether anybody has set `backend`."""
        return "backend" in self.origins or self.backend != "local"

    def named(self, kind: str) -> str:
        """The first backend of a kind that is configured, else the one that needs no configuration."""
        return next((name for name in self.backends if self.backend_table(name)[0] == kind), kind)

    def backend_table(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """The kind of a named backend, and that kind's own options as they were written."""
        table = self.backends.get(name, BackendSettings())
        return table.kind or name, table.options

    def create_backend(self, name: str, plugins: Plugins, *, containers: Containers | None = None) -> Backend:
        """A new backend under a configured name, or of a kind that needs no configuration.

        `containers` is how images are used, where that is not as the settings say.
        Raises `PluginError` when there is none of this name or its plugin cannot be used, and
        `SettingsError` when its options are wrong.
        """
        kind, options = self.backend_table(name)
        try:
            cls = plugins.backend(kind)
        except PluginError as error:
            if name in self.backends or not self.backends:
                raise
            raise PluginError(f"{error}; configured here: {', '.join(sorted(self.backends))}") from error
        if any(each.name == "pull" for each in cls.Options.declared()):
            options = {"pull": self.images.pull, **options}
        backend = cls(cls.Options.parse(options, where=f"backends.{name}"))
        wanted = (containers or self.containers) is Containers.APPTAINER
        if wanted and BackendFeature.RUNTIME in backend.features:
            backend.runtime = self.runtime
        return backend

    @property
    def runtime(self) -> Runtime:
        """The program that runs images, as these settings have it."""
        mine = self.apptainer
        return Runtime(
            program=mine.program or next(filter(shutil.which, PROGRAMS), PROGRAMS[0]),
            shared=mine.shared,
            images=str(mine.images or self.home / "images"),
            pull=self.images.pull,
        )

    def explain(self, plugins: Plugins | None = None) -> list[SettingRow]:
        """Every setting with value, origin and help, in the order of declaration.

        An option of a backend is shown only when `plugins` know it and it is not declared secret.
        """
        rows = [
            SettingRow(name=dotted(name), value=value, origin=self._origin(name), help=text)
            for name, value, text in walk(self)
        ]
        for backend, table in self.backends.items():
            cls = plugins.backends.get(table.kind or backend) if plugins else None
            declared_options = cls.Options.declared() if cls else ()
            options = {alias: each for each in declared_options for alias in (each.name, *each.aliases)}
            for key, value in table.options.items():
                name, option = ("backends", backend, key), options.get(key)
                rows.append(
                    SettingRow(
                        name=dotted(name),
                        value=value if option and not option.secret else HIDDEN,
                        origin=self._origin(name),
                        help=option.help if option else "",
                    )
                )
        return rows

    def _origin(self, name: Name) -> str:
        return self.origins.get(dotted(name), "default")


def load_settings(
    *, start: Path, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings that hold for an analysis in the directory `start`.

    `overrides` are by dotted name (`limits.cpus`), as text or as values. Reads files, and changes
    nothing. Raises `SettingsError` with every mistake of every level.
    """
    problems: list[Problem] = []
    values: dict[Name, Any] = {}
    origins: dict[str, str] = {}
    for layer in (*_files(start, environ, problems), *_variables(environ), *_overrides(overrides or {})):
        problems += layer.problems
        values |= layer.values
        origins |= dict.fromkeys(map(dotted, layer.values), layer.origin)
    if ("home",) not in values:
        try:
            values["home",] = _data_home(environ)
        except RuntimeError as error:
            problems.append(Problem(message=f"home: {error}", pointer="home", hint="set DRAWBAR_HOME"))
    if problems:
        raise SettingsError(problems)
    settings: Settings = assemble(Settings, values)
    return dataclasses.replace(settings, origins=origins, warnings=tuple(_unknown_variables(environ)))


def variables(table: Any = Settings, name: Name = ()) -> Mapping[str, Name]:
    """The settings that have an environment variable, by it: all but those under names users choose."""
    found: dict[str, Name] = {}
    for key, (hint, _) in declared(table).items():
        place = (*name, key)
        if is_table(hint):
            found |= variables(hint, place)
        elif not is_mapping(hint):
            found["_".join(("DRAWBAR", *place)).upper()] = place
    return found


def _files(start: Path, environ: Mapping[str, str], problems: list[Problem]) -> Iterator[Layer]:
    """The system's, the user's and the project's file, of those that there are."""
    system = environ.get("DRAWBAR_SYSTEM_CONFIG")
    if system and not Path(system).exists():
        problems.append(Problem(message="DRAWBAR_SYSTEM_CONFIG names a file that is not there", file=system))
    own = [Path(system).absolute() if system else SYSTEM_FILE]
    if Path(environ.get("XDG_CONFIG_HOME", "")).is_absolute():
        own.append(Path(environ["XDG_CONFIG_HOME"]) / "drawbar" / FILE)
    elif environ.get("HOME"):
        own.append(Path(environ["HOME"]).absolute() / ".config" / "drawbar" / FILE)
    for path in own:
        yield from _file(path, problems, project=False)
    project = (start / FILE).absolute()
    if os.path.realpath(project) not in map(os.path.realpath, own):
        yield from _file(project, problems, project=True)


def _file(path: Path, problems: list[Problem], *, project: bool) -> Iterator[Layer]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except RecursionError:
        problems.append(Problem(message="cannot be read: it is nested too deeply", file=str(path)))
    except (OSError, ValueError) as error:
        line = re.search(r"at line (\d+)", str(error))
        problems.append(
            Problem(message=f"cannot be read: {error}", file=str(path), line=int(line[1]) if line else None)
        )
    else:
        yield Layer(str(path), document, table=Settings, base=path.parent, file=path, project=project)


def _variables(environ: Mapping[str, str]) -> Iterator[Layer]:
    for variable, name in variables().items():
        if environ.get(variable):
            document = nested(name, environ[variable])
            yield Layer(f"environment {variable}", document, table=Settings, base=Path.cwd(), text=True)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[Problem]:
    known = {*variables(), *OTHER_VARIABLES}
    for variable in sorted(environ):
        if variable.startswith("DRAWBAR_") and variable not in known:
            message = f"the environment variable {variable} is no setting and has no effect"
            yield Problem(message=message, hint=did_you_mean(variable, known), severity=Severity.WARNING)


def _overrides(overrides: Mapping[str, Any]) -> Iterator[Layer]:
    for key, value in overrides.items():
        images = re.fullmatch(r"images\.(aliases|rewrites)\.(.+)", key)
        name = ("images", *images.groups()) if images else tuple(key.split("."))
        yield Layer("command line", nested(name, value), table=Settings, base=Path.cwd(), text=True)


def _data_home(environ: Mapping[str, str]) -> Path:
    data = Path(environ.get("XDG_DATA_HOME", ""))
    if not data.is_absolute():
        data = Path(environ.get("HOME") or Path.home()).absolute() / ".local" / "share"
    return data / "drawbar"
