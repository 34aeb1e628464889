"""Finds plugins, checks what they register, and keeps what is wrong with them.

A plugin is an entry point in the group `drawbar` that names a module (or object) with hook
implementations. Built-ins come through the same door. Whatever is wrong with a plugin, or with one
class of it, becomes a `PluginFinding`: shown by `drawbar plugins`, raised when that engine or backend
is asked for, and of no consequence to the others. There is no global state: `load_plugins` gives
every caller plugins of its own.

The variable DRAWBAR_PLUGINS narrows the choice, to find out which plugin breaks a site. It is a list
with commas: a name keeps only the built-ins and the plugins so named, `-name` leaves one out, and an
empty value keeps the built-ins only.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any, TypeVar

import pluggy

from drawbar import hookspecs
from drawbar.backend import API, Backend, BackendFeature
from drawbar.engine import Engine, EngineFeature
from drawbar.errors import PluginError
from drawbar.hookspecs import PROJECT, Event
from drawbar.model import Resources
from drawbar.options import Options, did_you_mean

SUPPORTED_APIS = range(1, API + 1)
EXTRAS = frozenset({"cwl", "docker", "htcondor", "kubernetes", "snakemake", "yadage"})
"""Names that come with an extra of the distribution drawbar."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_KINDS: Mapping[str, tuple[type[Engine] | type[Backend], type[EngineFeature] | type[BackendFeature]]] = {
    "engine": (Engine, EngineFeature),
    "backend": (Backend, BackendFeature),
}
_C = TypeVar("_C", Engine, Backend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a plugin comes from; one that was registered at run time has no distribution."""

    plugin: str
    distribution: str | None = None
    version: str | None = None

    @property
    def builtin(self) -> bool:
        """Whether the plugin is part of drawbar itself."""
        return self.distribution == PROJECT

    def __str__(self) -> str:
        source = f"{self.distribution} {self.version}" if self.distribution else "registered at run time"
        return f"plugin {self.plugin!r} ({source})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginFinding:
    """What is wrong with a plugin, or with the engine or backend `name` in it, and what raised it."""

    origin: Origin
    message: str
    kind: str = "plugin"
    name: str | None = None
    cause: BaseException | None = None

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRow:
    """A line of `drawbar plugins`: an engine, a backend, a plugin with neither, or a finding."""

    kind: str
    name: str
    plugin: str
    distribution: str | None
    version: str | None
    api: int | None = None
    features: tuple[str, ...] = ()
    problem: str | None = None


class Plugins:
    """The engines, backends and observers that are there. Starts empty; see `load_plugins`.

    Only classes of these `kinds` are asked for: an engine process, say, needs no backends. A plugin is asked
    for its classes when one of them may be wanted, as that imports most of it.
    """

    def __init__(self, kinds: Iterable[str] = tuple(_KINDS)) -> None:
        self._kinds = tuple(kinds)
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._origins: list[Origin] = []
        self._findings: list[PluginFinding] = []
        self._unasked: dict[str, list[tuple[pluggy.HookImpl, Origin]]] = {kind: [] for kind in _KINDS}
        self._classes: dict[str, dict[str, Any]] = {kind: {} for kind in _KINDS}
        self._owners: dict[tuple[str, str], Origin] = {}

    @property
    def engines(self) -> Mapping[str, type[Engine]]:
        """The usable engines by name."""
        return _Classes(self, "engine")

    @property
    def backends(self) -> Mapping[str, type[Backend]]:
        """The usable kinds of backend by name."""
        return _Classes(self, "backend")

    @property
    def findings(self) -> Sequence[PluginFinding]:
        """Everything that is wrong with plugins, as far as it is known by now."""
        self._ask_all()
        return tuple(self._findings)

    @property
    def hook(self) -> pluggy.HookRelay:
        """Pluggy's own way to call hooks; `place` and `notify` guard against what plugins raise."""
        return self._manager.hook

    def engine(self, name: str) -> type[Engine]:
        """The engine of this name; a `PluginError` says why there is none, and what to do."""
        return self._get("engine", name, self.engines)

    def backend(self, name: str) -> type[Backend]:
        """The kind of backend of this name; a `PluginError` says why there is none, and what to do."""
        return self._get("backend", name, self.backends)

    def origin(self, kind: str, name: str) -> Origin:
        """Where the usable engine or backend of this name comes from."""
        return self._owners[kind, name]

    def register(self, plugin: object, name: str) -> None:
        """Add a module or object with hook implementations, for tests and notebooks.

        Raises `PluginError` when anything about it is wrong; what is right about it stays usable.
        """
        self._ask_all()
        before = len(self._findings)
        self._add(plugin, Origin(plugin=name))
        self._ask_all()
        for finding in self._findings[before:]:
            raise PluginError(str(finding)) from finding.cause

    def load(self, entry: EntryPoint) -> None:
        """Add the plugin of an entry point; never raises, what is wrong becomes a finding."""
        origin = _origin(entry)
        try:
            self._add(entry.load(), origin)
        except (Exception, SystemExit) as error:
            self._find(origin, f"cannot be loaded from {entry.value!r}: {_describe(error)}", cause=error)

    @property
    def policy(self) -> bool:
        """Whether a plugin has site policy, which `place` asks."""
        return bool(self.hook.drawbar_place.get_hookimpls())

    def place(
        self,
        *,
        step: str,
        image: str | None,
        resources: Resources,
        hints: Mapping[str, Any],
        backends: Sequence[str],
    ) -> str | None:
        """What site policy answers: one of `backends`, or None for no opinion.

        A `PluginError` names the policy that failed or named another backend: policy is not guessed.
        """
        try:
            answer = self.hook.drawbar_place(
                step=step, image=image, resources=resources, hints=hints, backends=backends
            )
        except Exception as error:
            raise PluginError(
                f"placing step {step}: the hook drawbar_place failed: {_describe(error)}"
            ) from error
        if answer is not None and answer not in backends:
            known = ", ".join(backends)
            raise PluginError(
                f"placing step {step}: drawbar_place answered {answer!r}, which is none of: {known}"
            )
        return answer  # type: ignore[no-any-return]

    def notify(self, event: Event) -> None:
        """Tell every observer; one that raises is a finding (its first time) and hinders nobody."""
        for implementation in self.hook.drawbar_event.get_hookimpls():
            try:
                implementation.function(*([event] if "event" in implementation.argnames else []))
            except Exception as error:
                origin = self._origin_of(implementation.plugin_name)
                message = f"drawbar_event failed: {_describe(error)}"
                if not any(each.origin == origin and each.message == message for each in self._findings):
                    self._find(origin, message, cause=error)

    def describe(self) -> Sequence[PluginRow]:
        """A row for every engine and backend, every plugin that has neither, and every finding."""
        self._ask_all()
        rows = [
            _row(
                self._owners[kind, name],
                kind,
                name,
                api=cls.api,
                features=tuple(sorted(str(feature) for feature in cls.features)),
            )
            for kind, classes in self._classes.items()
            for name, cls in sorted(classes.items())
        ]
        shown = {row.plugin for row in rows} | {finding.origin.plugin for finding in self._findings}
        rows += [_row(each, "plugin", each.plugin) for each in self._origins if each.plugin not in shown]
        rows += [
            _row(each.origin, each.kind, each.name or each.origin.plugin, problem=each.message)
            for each in self._findings
        ]
        return rows

    def _find(
        self,
        origin: Origin,
        message: str,
        *,
        kind: str = "plugin",
        name: str | None = None,
        cause: BaseException | None = None,
    ) -> None:
        self._findings.append(
            PluginFinding(origin=origin, message=message, kind=kind, name=name, cause=cause)
        )

    def _origin_of(self, plugin: str) -> Origin:
        return next(origin for origin in self._origins if origin.plugin == plugin)

    def _add(self, plugin: object, origin: Origin) -> None:
        problem = self._misuse(plugin)
        if problem:
            self._find(origin, problem)
            return
        try:
            self._manager.register(plugin, name=origin.plugin)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.get_plugin(origin.plugin) is plugin:
                self._manager.unregister(name=origin.plugin)
            self._find(origin, str(error), cause=error)
            return
        self._origins.append(origin)
        for kind in self._kinds:
            for implementation in getattr(self.hook, f"drawbar_register_{kind}s").get_hookimpls():
                if implementation.plugin_name == origin.plugin:
                    self._unasked[kind].append((implementation, origin))

    def _misuse(self, plugin: object) -> str | None:
        """What pluggy lets pass: misspelt hooks, hooks without the marker, plugins without hooks."""
        known = [name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")]
        implemented = 0
        for name in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, name)
            if options is None:
                if name in known and inspect.isroutine(getattr(plugin, name)):
                    return f"{name} lacks the decorator: from drawbar import hookimpl"
                continue
            hook = options.get("specname") or name
            if hook in known:
                implemented += 1
            elif not options.get("optionalhook"):
                hint = did_you_mean(hook, known)
                return f"unknown hook {hook!r}{f' ({hint})' if hint else ''}"
        return None if implemented else f"implements no hook; there are: {', '.join(known)}"

    def _ask_all(self) -> None:
        for kind in self._kinds:
            self._ask(kind)

    def _ask(self, kind: str) -> None:
        """Ask every plugin that was not asked yet for its classes of a kind."""
        while self._unasked[kind]:
            self._collect(kind, *self._unasked[kind].pop(0))

    def _class(self, kind: str, name: str) -> Any:
        """The class of this name, or None. The built-in plugin of that name, which no other can
        outdo, is asked before all the others.
        """
        for each in self._unasked[kind]:
            if each[1].builtin and each[1].plugin == name:
                self._unasked[kind].remove(each)
                self._collect(kind, *each)
                break
        owner = self._owners.get((kind, name))
        if owner is None or not owner.builtin:
            self._ask(kind)
        return self._classes[kind].get(name)

    def _collect(self, kind: str, implementation: pluggy.HookImpl, origin: Origin) -> None:
        hook = f"drawbar_register_{kind}s"
        try:
            answer: Any = implementation.function()
            classes: list[Any] = list(answer)
        except (Exception, SystemExit) as error:
            self._find(origin, f"{hook} failed: {_describe(error)}", cause=error)
            return
        for cls in classes:
            name = getattr(cls, "name", None)
            name = name if isinstance(name, str) and _NAME.fullmatch(name) else None
            problem = _unfit(kind, cls)
            if problem or name is None:
                self._find(origin, problem or "", kind=kind, name=name)
            else:
                self._offer(kind, name, cls, origin)

    def _offer(self, kind: str, name: str, cls: type, origin: Origin) -> None:
        """A name belongs to a built-in, else to its only claimant; two third parties both lose it."""
        owner = self._owners.get((kind, name))
        if owner is None:
            self._owners[kind, name] = origin
            self._classes[kind][name] = cls
            return
        self._find(origin, f"{kind} {name!r} is also registered by {owner}", kind=kind, name=name)
        if not owner.builtin and self._classes[kind].pop(name, None):
            self._find(owner, f"{kind} {name!r} is also registered by {origin}", kind=kind, name=name)

    def _get(self, kind: str, name: str, classes: Mapping[str, type[_C]]) -> type[_C]:
        if name in classes:
            return classes[name]
        for finding in self._findings:
            if (finding.kind, finding.name) == (kind, name) or (
                finding.kind == "plugin" and finding.origin.plugin == name
            ):
                raise PluginError(f"{kind} {name!r} cannot be used: {finding}") from finding.cause
        hints = [did_you_mean(name, classes)]
        if name in EXTRAS:
            hints = [f"pip install 'drawbar[{name}]'"]
        if any(finding.kind == "plugin" for finding in self._findings):
            hints.append("some plugins could not be loaded, see `drawbar plugins`")
        hint = "; ".join(hint for hint in hints if hint)
        raise PluginError(f"no {kind} {name!r}{f' ({hint})' if hint else ''}")


class _Classes(Mapping[str, type[_C]]):
    """The usable classes of a kind by name."""

    def __init__(self, plugins: Plugins, kind: str) -> None:
        self._plugins = plugins
        self._kind = kind

    def __getitem__(self, name: str) -> type[_C]:
        found: type[_C] | None = self._plugins._class(self._kind, name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        self._plugins._ask(self._kind)
        return iter(self._plugins._classes[self._kind])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_plugins(environ: Mapping[str, str] = os.environ, *, kinds: Iterable[str] = tuple(_KINDS)) -> Plugins:
    """The installed plugins, as DRAWBAR_PLUGINS narrows them; never raises for what is wrong with one."""
    plugins = Plugins(kinds)
    entries = sorted(entry_points(group=PROJECT), key=lambda entry: (not _origin(entry).builtin, entry.name))
    chosen, unknown = _choose(entries, environ.get("DRAWBAR_PLUGINS"))
    for entry in chosen:
        plugins.load(entry)
    for name in unknown:
        hint = did_you_mean(name, {entry.name for entry in entries})
        message = f"DRAWBAR_PLUGINS names {name!r}, which is not installed{f' ({hint})' if hint else ''}"
        plugins._find(Origin(plugin=name), message)
    return plugins


def _choose(entries: Sequence[EntryPoint], wish: str | None) -> tuple[list[EntryPoint], list[str]]:
    """The entry points that DRAWBAR_PLUGINS leaves, and the names in it that match none."""
    if wish is None:
        return list(entries), []
    words = {word.strip() for word in wish.split(",")} - {""}
    without = {word[1:] for word in words if word.startswith("-")}
    only = {word for word in words if not word.startswith("-")}
    everything = bool(without) and not only
    chosen = [
        entry
        for entry in entries
        if entry.name not in without and (everything or entry.name in only or _origin(entry).builtin)
    ]
    return chosen, sorted((only | without) - {entry.name for entry in entries})


def _origin(entry: EntryPoint) -> Origin:
    if entry.dist is None:
        return Origin(plugin=entry.name)
    name, version = _distribution(entry.dist)
    return Origin(plugin=entry.name, distribution=name, version=version)


@cache
def _distribution(distribution: Distribution) -> tuple[str, str]:
    """Its name and version; the library parses all of its metadata for either, every time."""
    metadata = distribution.metadata
    return metadata["Name"], metadata["Version"]


def _row(origin: Origin, kind: str, name: str, **rest: Any) -> PluginRow:
    return PluginRow(
        kind=kind,
        name=name,
        plugin=origin.plugin,
        distribution=origin.distribution,
        version=origin.version,
        **rest,
    )


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _unfit(kind: str, cls: Any) -> str | None:
    """Why `cls` cannot be an engine or backend of this drawbar, or None."""
    base, feature = _KINDS[kind]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return f"drawbar_register_{kind}s gave {cls!r}, no subclass of {base.__module__}.{base.__name__}"
    where = f"{kind} class {cls.__module__}.{cls.__qualname__}"
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"{where} needs a `name` of small letters, digits, - and _, not {name!r}"
    if inspect.isabstract(cls):
        return f"{where} lacks {', '.join(sorted(cls.__abstractmethods__))}"
    api = getattr(cls, "api", None)
    if not isinstance(api, int) or isinstance(api, bool):
        return f"{where} does not say which plugin API it was written for: api = {API}"
    if api not in SUPPORTED_APIS:
        who = "drawbar" if api > API else "the plugin"
        return f"{kind} {name!r} needs plugin API {api}, this drawbar has {API}: upgrade {who}"
    if not isinstance(cls.features, Set) or not all(isinstance(each, feature) for each in cls.features):
        return f"{where}: features must be a set of members of {feature.__name__}"
    for table in ("Options", "Hints"):
        options = getattr(cls, table, Options)
        if not (isinstance(options, type) and issubclass(options, Options)):
            return f"{where}: {table} must be a subclass of drawbar.options.Options"
    return None
