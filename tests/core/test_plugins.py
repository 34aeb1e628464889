"""The plugin loader: what is wrong with one plugin is told, and harms no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import drawbar
import pytest
from drawbar import hookimpl
from drawbar.backend import API, Backend
from drawbar.engine import Engine
from drawbar.errors import PluginError
from drawbar.hookspecs import Event
from drawbar.model import Resources, RunState
from drawbar.plugins import Plugins, load_plugins

GOOD = """
from drawbar import hookimpl
from drawbar.backend import Backend

class {cls}(Backend):
    name = "{name}"
    api = 1
    def submit(self, attempts): return []
    def find(self, attempts): return {{}}
    def cancel(self, attempts): pass

@hookimpl
def drawbar_register_backends():
    return [{cls}]
"""


class Installed:
    """A directory of distributions, as an environment has them, in front of the real ones."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.monkeypatch = monkeypatch
        monkeypatch.syspath_prepend(str(directory))

    def add(self, name: str, code: str, *, value: str | None = None, distribution: str | None = None) -> None:
        module = f"plugin_{name.replace('-', '_')}"
        (self.directory / f"{module}.py").write_text(code)
        distribution = distribution or f"drawbar-{name}"
        info = self.directory / f"{distribution.replace('-', '_')}-0.3.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.3\n")
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[drawbar]\n{name} = {value or module}\n")
        self.monkeypatch.delitem(sys.modules, module, raising=False)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    return Installed(tmp_path, monkeypatch)


class Nomad(Backend):
    name = "nomad"
    api = API

    def submit(self, attempts):
        return []

    def find(self, attempts):
        return {}

    def cancel(self, attempts):
        pass


class Sheet(Engine):
    name = "sheet"
    api = API

    def recognises(self, path):
        return False

    def inspect(self, source):
        raise NotImplementedError

    def execute(self, source, jobs):
        raise NotImplementedError


def plugin(**hooks):
    """A plugin whose hooks give these answers."""
    implementations = {}
    for name, answer in hooks.items():

        def implementation(answer=answer):
            return answer

        implementation.__name__ = name
        implementations[name] = hookimpl(implementation)
    return SimpleNamespace(**implementations)


def test_builtins_come_through_the_same_door():
    plugins = load_plugins({})
    assert {"serial"} <= plugins.engines.keys()
    assert {"local"} <= plugins.backends.keys()
    rows = {row.name: row for row in plugins.describe()}
    assert (rows["local"].kind, rows["local"].distribution, rows["local"].api) == ("backend", "drawbar", API)
    assert rows["local"].version == drawbar.__version__


def test_one_plugin_may_bring_engines_and_backends_at_run_time():
    plugins = Plugins()
    plugins.register(plugin(drawbar_register_engines=[Sheet], drawbar_register_backends=[Nomad]), "mine")
    assert plugins.engine("sheet") is Sheet
    assert plugins.backend("nomad") is Nomad
    assert plugins.findings == ()
    assert Plugins().backends == {}  # nothing is global


def test_a_third_partys_plugin_is_found(installed):
    installed.add("nomad", GOOD.format(cls="Nomad", name="nomad"))
    plugins = load_plugins({})
    assert plugins.backend("nomad").name == "nomad"
    (row,) = [row for row in plugins.describe() if row.name == "nomad"]
    assert (row.plugin, row.distribution, row.version, row.problem) == ("nomad", "drawbar-nomad", "0.3", None)


@pytest.mark.parametrize(
    ("code", "value", "said"),
    [
        ("import no_such_library", None, "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def f(:", None, "SyntaxError"),
        ("raise RuntimeError('boom')", None, "RuntimeError: boom"),
        ("raise SystemExit(3)", None, "SystemExit: 3"),
        ("", "no_such_module", "ModuleNotFoundError"),
        ("", "plugin_nomad:no_such_object", "AttributeError"),
        ("", "not a module", "cannot be loaded"),
        ("", None, "implements no hook"),
        (
            "from drawbar import hookimpl\n@hookimpl\ndef drawbar_register_backend(): return []",
            None,
            "unknown hook 'drawbar_register_backend' (did you mean 'drawbar_register_backends'?)",
        ),
        ("def drawbar_register_backends(): return []", None, "lacks the decorator"),
        (
            "from drawbar import hookimpl\n@hookimpl\ndef drawbar_event(happening): pass",
            None,
            "happening",
        ),
        (
            "from drawbar import hookimpl\n@hookimpl\ndef drawbar_register_backends(): return 1/0",
            None,
            "ZeroDivisionError",
        ),
        (
            "from drawbar import hookimpl\n@hookimpl\ndef drawbar_register_backends(): pass",
            None,
            "TypeError",
        ),
    ],
)
def test_a_broken_plugin_is_a_finding_and_harms_no_other(installed, code, value, said):
    installed.add("nomad", code, value=value)
    installed.add("good", GOOD.format(cls="Good", name="good"))
    plugins = load_plugins({})
    (finding,) = plugins.findings
    assert said in str(finding)
    assert "plugin 'nomad' (drawbar-nomad 0.3)" in str(finding)
    assert plugins.backend("good").name == "good"
    assert "local" in plugins.backends
    with pytest.raises(PluginError) as caught:
        plugins.backend("nomad")
    assert said in str(caught.value)
    assert caught.value.__cause__ is finding.cause
    (row,) = [row for row in plugins.describe() if row.plugin == "nomad"]
    assert said in row.problem


def make(**attributes):
    return type("Odd", (Nomad,), attributes)


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (make(api=API + 1), f"needs plugin API {API + 1}, this drawbar has {API}: upgrade drawbar"),
        (make(api=0), "upgrade the plugin"),
        (make(api=None), "does not say which plugin API"),
        (make(api="1"), "does not say which plugin API"),
        (make(api=True), "does not say which plugin API"),
        (make(name="No Mad"), "needs a `name`"),
        (make(name=None), "needs a `name`"),
        (make(features={"fast"}), "a set of members of BackendFeature"),
        (make(features=3), "a set of members of BackendFeature"),
        (make(Options=dict), "Options must be a subclass"),
        (make(Hints=None), "Hints must be a subclass"),
        (type("Half", (Backend,), {"name": "half", "api": API}), "lacks cancel, find, submit"),
        (Sheet, "no subclass of drawbar.backend.Backend"),
        ("nomad", "no subclass of drawbar.backend.Backend"),
        (Nomad.__new__(Nomad), "no subclass of drawbar.backend.Backend"),
    ],
)
def test_a_class_that_does_not_fit_is_refused_and_the_others_of_the_plugin_stay(cls, said):
    plugins = Plugins()
    fine = type("Fine", (Nomad,), {"name": "fine"})
    with pytest.raises(PluginError) as caught:
        plugins.register(plugin(drawbar_register_backends=[cls, fine]), "mine")
    assert said in str(caught.value)
    assert plugins.backend("fine") is fine
    assert plugins.backends.keys() == {"fine"}


def test_a_class_without_name_or_api_is_refused():
    class Bare(Backend):
        submit = find = cancel = Nomad.submit

    plugins = Plugins()
    with pytest.raises(PluginError, match="needs a `name`"):
        plugins.register(plugin(drawbar_register_backends=[Bare]), "mine")


def test_an_incompatible_backend_says_why_when_it_is_asked_for(installed):
    installed.add("nomad", GOOD.format(cls="Nomad", name="nomad").replace("api = 1", "api = 99"))
    with pytest.raises(PluginError, match="needs plugin API 99"):
        load_plugins({}).backend("nomad")


def test_two_third_parties_lose_a_name_that_both_claim(installed):
    installed.add("one", GOOD.format(cls="One", name="nomad"))
    installed.add("two", GOOD.format(cls="Two", name="nomad"))
    installed.add("three", GOOD.format(cls="Three", name="nomad"))
    plugins = load_plugins({})
    assert "nomad" not in plugins.backends
    with pytest.raises(PluginError, match="also registered by"):
        plugins.backend("nomad")
    assert {finding.origin.plugin for finding in plugins.findings} == {"one", "two", "three"}


def test_a_builtin_keeps_its_name(installed):
    installed.add("aaa", GOOD.format(cls="Thief", name="local"))
    plugins = load_plugins({})
    assert plugins.backend("local").__module__.startswith("drawbar_local")
    (finding,) = plugins.findings
    assert "also registered by plugin 'local' (drawbar " in str(finding)


def test_unknown_names_come_with_a_hint():
    plugins = load_plugins({"DRAWBAR_PLUGINS": "-cwl"})
    with pytest.raises(PluginError, match=r"no backend 'locla'.*did you mean 'local'"):
        plugins.backend("locla")
    empty = Plugins()
    with pytest.raises(PluginError, match=r"no engine 'cwl' \(pip install 'drawbar\[cwl\]'\)"):
        empty.engine("cwl")


@pytest.mark.parametrize(
    ("wish", "present", "absent"),
    [
        (None, {"local", "one", "two"}, set()),
        ("", {"local"}, {"one", "two"}),
        ("one", {"local", "one"}, {"two"}),
        ("-one", {"local", "two"}, {"one"}),
        ("one, two,-two", {"local", "one"}, {"two"}),
        ("-local", {"one", "two"}, {"local"}),
    ],
)
def test_drawbar_plugins_narrows_the_choice(installed, wish, present, absent):
    installed.add("one", GOOD.format(cls="One", name="one"))
    installed.add("two", GOOD.format(cls="Two", name="two"))
    plugins = load_plugins({} if wish is None else {"DRAWBAR_PLUGINS": wish})
    assert present <= plugins.backends.keys()
    assert not absent & plugins.backends.keys()
    assert plugins.findings == ()


def test_a_misspelt_name_in_drawbar_plugins_is_a_finding():
    (finding,) = load_plugins({"DRAWBAR_PLUGINS": "-locla"}).findings
    assert "'locla', which is not installed (did you mean 'local'?)" in str(finding)


def test_a_plugin_name_is_taken_once():
    plugins = Plugins()
    plugins.register(plugin(drawbar_register_backends=[Nomad]), "mine")
    with pytest.raises(PluginError, match="mine"):
        plugins.register(plugin(drawbar_register_engines=[Sheet]), "mine")
    assert plugins.backend("nomad") is Nomad


def test_a_hook_of_a_later_drawbar_may_be_marked_optional():
    class Later:
        @hookimpl(optionalhook=True)
        def drawbar_of_the_future(self):
            return None

        @hookimpl
        def drawbar_register_backends(self):
            return [Nomad]

    plugins = Plugins()
    plugins.register(Later(), "later")
    assert plugins.backend("nomad") is Nomad


def place(plugins):
    return plugins.place(
        step="fit", image=None, resources=Resources(cpus=8), hints={}, backends=["local", "nomad"]
    )


def test_site_policy_places_a_job_and_the_first_opinion_counts():
    class Policy:
        @hookimpl
        def drawbar_place(self, resources, backends):
            return backends[-1] if resources.cpus > 4 else None

    plugins = Plugins()
    assert place(plugins) is None
    plugins.register(plugin(drawbar_place=None), "silent")
    assert place(plugins) is None
    plugins.register(Policy(), "site")
    assert place(plugins) == "nomad"


@pytest.mark.parametrize("answer", ["elsewhere", 3])
def test_site_policy_cannot_invent_a_backend(answer):
    plugins = Plugins()
    plugins.register(plugin(drawbar_place=answer), "site")
    with pytest.raises(PluginError, match="placing step fit: drawbar_place answered"):
        place(plugins)


def test_a_failing_site_policy_is_an_error():
    class Policy:
        @hookimpl
        def drawbar_place(self, step):
            raise KeyError(step)

    plugins = Plugins()
    plugins.register(Policy(), "site")
    with pytest.raises(PluginError, match="placing step fit: the hook drawbar_place failed: KeyError"):
        place(plugins)


def test_observers_hear_everything_and_one_that_fails_hinders_nobody():
    heard = []

    class Broken:
        @hookimpl(tryfirst=True)
        def drawbar_event(self, event):
            raise ValueError("no")

    class Listener:
        @hookimpl
        def drawbar_event(self, event):
            heard.append(event)

    plugins = Plugins()
    plugins.register(Listener(), "listener")
    plugins.register(Broken(), "broken")
    event = Event(run="r1", time=1.0, state=RunState.RUNNING)
    plugins.notify(event)
    plugins.notify(event)
    assert heard == [event, event]
    (finding,) = plugins.findings
    assert "plugin 'broken' (registered at run time): drawbar_event failed: ValueError: no" in str(finding)


def test_loading_plugins_imports_no_engine_library():
    libraries = {"cwltool", "snakemake", "yadage", "docker", "kubernetes", "htcondor2", "pytest", "rich"}
    code = "import sys; from drawbar.plugins import load_plugins; load_plugins({}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not libraries & set(done.stdout.split())


def test_importing_drawbar_loads_nothing():
    code = "import sys; before = set(sys.modules); import drawbar; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["drawbar"]


def test_every_public_name_of_the_package_exists():
    for name in drawbar.__all__:
        assert getattr(drawbar, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = drawbar.nonsense
