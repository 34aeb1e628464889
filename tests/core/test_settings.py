"""Settings: every level, every mistake at once, and where each value came from."""

from __future__ import annotations

import json
import os
import typing
from enum import StrEnum
from pathlib import Path
from typing import Any

import drawbar
import jsonschema
import pytest
from drawbar.backend import Backend
from drawbar.errors import PluginError, SettingsError
from drawbar.hookspecs import hookimpl
from drawbar.layers import declared, is_mapping, is_table, walk
from drawbar.model import RetryPolicy
from drawbar.options import Options, option
from drawbar.plugins import Plugins, load_plugins
from drawbar.settings import BackendSettings, Containers, Keep, Settings, load_settings, variables

SCHEMA = Path(drawbar.__file__).parent / "schema" / "settings-v1.schema.json"
PROJECT_MAY_SET = {
    "backend",
    "keep",
    "cache",
    "unschedulable_s",
    "retry.infrastructure",
    "retry.temporary",
    "retry.out_of_memory",
    "retry.memory_factor",
    "images.aliases",
}


class Site:
    """The three files of a machine, its environment, and what comes out."""

    def __init__(self, root: Path) -> None:
        self.system = root / "etc" / "drawbar.toml"
        self.user = root / "home" / ".config" / "drawbar" / "drawbar.toml"
        self.project = root / "analysis" / "drawbar.toml"
        for path in (self.system, self.user, self.project):
            path.parent.mkdir(parents=True)
        self.system.write_text("")
        self.environ = {"HOME": str(root / "home"), "DRAWBAR_SYSTEM_CONFIG": str(self.system)}

    def load(self, **overrides: Any) -> Settings:
        named = {name.replace("__", "."): value for name, value in overrides.items()}
        return load_settings(start=self.project.parent, environ=self.environ, overrides=named)

    def problems(self, **overrides: Any) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            self.load(**overrides)
        return [str(problem) for problem in caught.value.problems]


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_defaults_need_no_file(site):
    settings = site.load()
    assert settings.home == Path(site.environ["HOME"]) / ".local" / "share" / "drawbar"
    assert (settings.backend, settings.containers, settings.keep) == ("local", Containers.AUTO, Keep.ALL)
    assert settings.retry.policy == RetryPolicy()
    assert {row.origin for row in settings.explain()} == {"default"}
    assert settings.warnings == ()


def test_home_follows_the_xdg_data_directory(site, tmp_path):
    site.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    assert site.load().home == tmp_path / "data" / "drawbar"


def test_later_levels_win_value_by_value_and_say_where_they_are_from(site):
    site.system.write_text("keep = 'none'\n[limits]\ncpus = 8\njobs_in_flight = 5\nmemory_mib = 1\n")
    site.user.write_text("keep = 'outputs'\n[limits]\ncpus = 16\n")
    site.project.write_text("keep = 'all'\n")
    site.environ["DRAWBAR_LIMITS_CPUS"] = "2.5"
    settings = site.load(limits__memory_mib="2048")
    assert (settings.keep, settings.limits.cpus) == (Keep.ALL, 2.5)
    assert (settings.limits.jobs_in_flight, settings.limits.memory_mib) == (5, 2048)
    origins = {row.name: row.origin for row in settings.explain()}
    assert origins["keep"] == str(site.project)
    assert origins["limits.cpus"] == "environment DRAWBAR_LIMITS_CPUS"
    assert origins["limits.jobs_in_flight"] == str(site.system)
    assert origins["limits.memory_mib"] == "command line"
    assert origins["limits.submissions_per_minute"] == "default"


def test_the_user_file_is_found_under_xdg_config_home(site, tmp_path):
    site.environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    (tmp_path / "xdg" / "drawbar").mkdir(parents=True)
    (tmp_path / "xdg" / "drawbar" / "drawbar.toml").write_text("cache = true")
    assert site.load().cache is True


def test_a_file_is_read_once_when_the_analysis_lies_beside_the_users_own(site):
    site.user.write_text("home = 'runs'")
    settings = load_settings(start=site.user.parent, environ=site.environ)
    assert settings.home == site.user.parent / "runs"


def test_parents_of_the_analysis_are_not_searched(site):
    (site.project.parent.parent / "drawbar.toml").write_text("backend = 'elsewhere'")
    assert site.load().backend == "local"


def test_relative_paths_begin_where_they_are_written(site, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    site.system.write_text("home = 'runs'\n[engines.cwl]\ninterpreter = 'venv/bin/python'\n")
    settings = site.load()
    assert settings.home == site.system.parent / "runs"
    assert settings.engines["cwl"].interpreter == site.system.parent / "venv/bin/python"
    site.environ["DRAWBAR_HOME"] = "mine"
    assert site.load().home == tmp_path / "mine"


def test_every_mistake_of_every_level_comes_at_once_with_place_and_remedy(site):
    site.system.write_text("bakend = 'x'\n[limits]\ncpus = '4'\n")
    site.user.write_text("keep = 'al'\nlimits = 3\n[retry]\nmemory_factor = 0.5\ntemporary = true\n")
    site.environ["DRAWBAR_CACHE"] = "maybe"
    assert site.problems(engine__silence_s="soon", engine__silnce_s=1) == [
        f"{site.system}: bakend: no such setting (did you mean 'backend'?)",
        f"{site.system}: limits.cpus: must be a number, not text '4'",
        f"{site.user}: keep: must be one of 'all', 'outputs', 'none', not 'al'",
        f"{site.user}: limits: must be a table, not the whole number 3",
        f"{site.user}: retry.memory_factor: must be at least 1, not 0.5",
        f"{site.user}: retry.temporary: must be a whole number, not true",
        "environment DRAWBAR_CACHE: cache: must be true or false, not text 'maybe'",
        "command line: engine.silence_s: must be a number, not text 'soon'",
        "command line: engine.silnce_s: no such setting (did you mean 'silence_s'?)",
    ]


@pytest.mark.parametrize(
    "value",
    ["nan", "inf", "-1", "0", "[]", "{}", "1979-05-27", "1" + "0" * 400],
    ids=lambda value: value[:10],
)
def test_odd_numbers_are_refused(site, value):
    site.user.write_text(f"[limits]\ncpus = {value}\n")
    assert len(site.problems()) == 1


def test_a_syntax_error_has_its_line(site):
    site.user.write_text("cache = true\nkeep =\n")
    with pytest.raises(SettingsError) as caught:
        site.load()
    (problem,) = caught.value.problems
    assert (problem.file, problem.line) == (str(site.user), 2)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"a = " + b"[" * 50_000, b"# " + b"x" * 300_000, b"\0"],
    ids=["encoding", "depth", "size", "nul"],
)
def test_hostile_files_are_refused(site, content):
    site.project.write_bytes(content)
    (problem,) = site.problems()
    assert problem.startswith(f"{site.project}:")
    assert "cannot be read" in problem


def test_a_file_that_is_no_file_is_refused_and_not_waited_for(site):
    os.mkfifo(site.project)
    assert "not a regular file" in site.problems()[0]
    site.project.unlink()
    site.project.mkdir()
    assert "not a regular file" in site.problems()[0]


def test_a_missing_system_file_is_an_error_when_it_was_asked_for(site):
    site.system.unlink()
    assert "not there" in site.problems()[0]


@pytest.mark.parametrize(
    "text",
    [
        "home = '/tmp/x'",
        "containers = 'none'",
        "[limits]\ncpus = 1000",
        "[engine]\nsilence_s = 1",
        "[engines.serial]\ninterpreter = './evil'",
        "[backends.local]\nkind = 'local'",
        "[backends.local]\noption = 1",
    ],
)
def test_the_file_of_an_analysis_may_not_widen_what_it_may_do(site, text):
    site.project.write_text(text)
    (problem,) = site.problems()
    assert "may not be set by a file that comes with an analysis (set it in your own drawbar.toml" in problem
    site.user.write_text(text)
    site.project.unlink()
    site.load()


def test_what_a_project_may_set_is_decided_on_purpose():
    def names(table: Any, prefix: str = "") -> set[str]:
        found = set()
        for name, (hint, field) in declared(table).items():
            if is_table(hint):
                found |= names(hint, f"{prefix}{name}.")
            elif field.metadata["project"]:
                found.add(f"{prefix}{name}")
        return found

    assert names(Settings) == PROJECT_MAY_SET


def test_backends_have_names_kinds_limits_and_options(site):
    site.system.write_text(
        "[backends.slurmcern]\nkind = 'slurm'\npartition = 'inf-short'\nnodes = 2\n"
        "[backends.slurmcern.limits]\ncpus = 100\n[backends.slurm]\npartition = 'x'\n"
    )
    site.user.write_text("[backends.slurmcern]\npartition = 'inf-long'\n")
    settings = site.load(backends__slurmcern__nodes="4")
    assert settings.backend_table("slurmcern") == ("slurm", {"partition": "inf-long", "nodes": 4})
    assert settings.backends["slurmcern"].limits.cpus == 100
    assert settings.backend_table("slurm") == ("slurm", {"partition": "x"})
    assert settings.backend_table("local") == ("local", {})


def test_names_of_backends_are_checked(site):
    site.user.write_text("[backends.'../x']\nkind = 'local'\n[engines]\ncwl = 1\n")
    assert len(site.problems()) == 2


@pytest.mark.parametrize(
    "line", ["allow = ['*']", "pull = 'always'", "rewrites = {'docker.io' = 'evil.org'}"]
)
def test_the_file_of_an_analysis_has_no_say_in_image_policy(site, line):
    site.project.write_text(f"[images]\n{line}\n")
    (problem,) = site.problems()
    assert "may not be set by a file that comes with an analysis" in problem


def test_a_list_may_come_from_the_environment(site):
    site.environ["DRAWBAR_IMAGES_ALLOW"] = "docker.io/library/*, ghcr.io/*"
    assert site.load().images.allow == ("docker.io/library/*", "ghcr.io/*")


def test_a_backend_that_fetches_images_does_it_as_the_site_says(site):
    site.system.write_text("[images]\npull = 'never'\n[backends.other]\nkind = 'docker'\npull = 'always'\n")
    settings, plugins = site.load(), load_plugins()
    pulls = [settings.create_backend(name, plugins).options.pull for name in ("docker", "other")]
    assert pulls == ["never", "always"]


def test_image_aliases_keep_their_dots_on_every_level(site):
    site.system.write_text("[images.aliases]\n'docker.io/a:1' = 'b'\n'c' = 'd'\n")
    site.project.write_text("[images.aliases]\n'c' = 'e'\n")
    settings = load_settings(
        start=site.project.parent, environ=site.environ, overrides={"images.aliases.registry.org/x:1.0": "y"}
    )
    assert settings.images.aliases == {"docker.io/a:1": "b", "c": "e", "registry.org/x:1.0": "y"}
    assert 'images.aliases."docker.io/a:1"' in {row.name for row in settings.explain()}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("No", False), ("1", True), ("off", False)], ids=str
)
def test_truth_in_variables(site, text, value):
    site.environ["DRAWBAR_CACHE"] = text
    assert site.load().cache is value


def test_an_empty_variable_is_not_set(site):
    site.environ["DRAWBAR_BACKEND"] = ""
    assert site.load().backend == "local"


def test_a_misspelt_variable_is_a_warning(site):
    site.environ |= {"DRAWBAR_BACKND": "slurm", "DRAWBAR_PLUGINS": ""}
    (warning,) = site.load().warnings
    assert "DRAWBAR_BACKND" in str(warning)
    assert "did you mean 'DRAWBAR_BACKEND'?" in str(warning)


class _Farm(Backend):
    name = "farm"
    api = 1

    class Options(Options):
        pass

    def submit(self, attempts):
        return []

    def find(self, attempts):
        return {}

    def cancel(self, attempts):
        pass


def _farm(options: type[Options]) -> Plugins:
    class Farm(_Farm):
        Options = options

    class Plugin:
        @hookimpl
        def drawbar_register_backends(self):
            return [Farm]

    plugins = Plugins()
    plugins.register(Plugin(), "farm")
    return plugins


def _options() -> type[Options]:
    import dataclasses

    return dataclasses.make_dataclass(
        "FarmOptions",
        [
            ("queue", str, option("all", help="queue to use", aliases=("farm_queue",))),
            ("token", str, option("", help="password", secret=True)),
        ],
        bases=(Options,),
        frozen=True,
        kw_only=True,
    )


def test_create_backend_checks_the_options_of_its_kind(site):
    plugins = _farm(_options())
    site.user.write_text("[backends.night]\nkind = 'farm'\nfarm_queue = 'night'\n")
    backend = site.load().create_backend("night", plugins)
    assert (backend.name, backend.options.queue) == ("farm", "night")
    assert site.load().create_backend("farm", plugins).options.queue == "all"
    with pytest.raises(SettingsError, match=r"backends\.night: unknown option 'qeue' \(did you mean 'queue'"):
        site.load(backends__night__qeue="x").create_backend("night", plugins)
    with pytest.raises(PluginError, match=r"no backend 'nigth'.*configured here: night"):
        site.load().create_backend("nigth", plugins)


def test_secrets_are_not_shown(site):
    site.user.write_text("[backends.night]\nkind = 'farm'\ntoken = 's3cret'\nqueue = 'q'\nodd = 1\n")
    settings = site.load()
    rows = {row.name: row.value for row in settings.explain(_farm(_options()))}
    assert rows["backends.night.queue"] == "q"
    assert rows["backends.night.token"] == rows["backends.night.odd"] == "(not shown)"
    assert "s3cret" not in repr(settings.explain())


def expected_schema() -> dict[str, Any]:
    """The JSON Schema that follows from the declarations."""
    plain = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}

    def value(hint: Any, metadata: Any) -> dict[str, Any]:
        if typing.get_origin(hint) is tuple:
            return {"type": "array", "items": value(typing.get_args(hint)[0], metadata)}
        kind = next(each for each in (*typing.get_args(hint), hint) if each is not type(None))
        if issubclass(kind, StrEnum):
            return {"enum": [str(each) for each in kind]}
        least = {"minimum": metadata["minimum"]} if metadata["minimum"] is not None else {}
        return {"type": plain[kind], **least}

    def table(cls: Any) -> dict[str, Any]:
        properties = {}
        for name, (hint, field) in declared(cls).items():
            if is_table(hint):
                schema = table(hint)
            elif is_mapping(hint):
                item = typing.get_args(hint)[1]
                each = table(item) if is_table(item) else value(item, field.metadata)
                schema = {"type": "object", "additionalProperties": each}
                if is_table(item):
                    schema["propertyNames"] = {"pattern": "^[A-Za-z][A-Za-z0-9_-]*$"}
            else:
                schema = value(hint, field.metadata)
            properties[name] = {"description": field.metadata["help"], **schema}
        closed = {} if cls is BackendSettings else {"additionalProperties": False}
        return {"type": "object", "properties": properties, **closed}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:drawbar:schema:settings:v1",
        "title": "drawbar.toml",
        **table(Settings),
    }


def test_the_published_schema_follows_the_declarations():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == expected_schema()


@pytest.mark.parametrize(
    ("document", "good"),
    [
        ({"backend": "slurm", "limits": {"cpus": 2}}, True),
        ({"backends": {"a": {"kind": "slurm", "anything": [1]}}}, True),
        ({"images": {"aliases": {"a:1": "b"}}}, True),
        ({"images": {"allow": ["a/*"], "rewrites": {"b": "c"}, "pull": "never"}}, True),
        ({"images": {"allow": [1]}}, False),
        ({"limits": {"cpus": 0}}, False),
        ({"keep": "some"}, False),
        ({"kep": "all"}, False),
        ({"engines": {"1x": {}}}, False),
        ({"engines": {"cwl": {"interpreter": 3}}}, False),
    ],
    ids=str,
)
def test_schema_and_reader_agree(site, document, good):
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert validator.is_valid(document) is good
    try:
        load_settings(
            start=site.project.parent,
            environ=site.environ,
            overrides={f"{name}": value for name, value in document.items()},
        )
        read = True
    except SettingsError:
        read = False
    assert read is good


def test_every_single_value_has_a_variable(site):
    names = {".".join(path) for path in variables().values()}
    assert names == {".".join(name) for name, _, _ in walk(site.load())}
