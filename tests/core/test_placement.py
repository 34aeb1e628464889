"""Which backend runs a job, and whether in its image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
from drawbar import hookimpl
from drawbar.backend import API, Backend, BackendFeature
from drawbar.engine import StepInfo, WorkflowInfo
from drawbar.errors import PluginError, SpecError, Unsupported
from drawbar.model import Resources, WorkspaceNeed
from drawbar.options import Options, option
from drawbar.placement import Placer, check_places, floating_images, ignored_images, places
from drawbar.plugins import Plugins
from drawbar.settings import Containers, load_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints(Options):
    partition: str | None = option(None, help="partition", aliases=("farm_partition",))
    minutes: int | None = option(None, help="minutes", aliases=("farm_time",))


class Plain(Backend):
    name = "plain"
    api = API

    def submit(self, attempts):
        return []

    def find(self, attempts):
        return {}

    def cancel(self, attempts):
        pass

    def refuses(self, spec):
        return "it has no GPUs" if spec.resources.gpus else None


class Farm(Plain):
    name = "farm"
    features = frozenset({BackendFeature.CONTAINERS})
    Hints = Hints

    def resources(self, hints, resources):
        return resources if hints.minutes is None else replace(resources, walltime_s=hints.minutes * 60)


class Broken(Plain):
    name = "broken"
    Hints = Hints

    def refuses(self, spec):
        raise KeyError("oops")


def plugin(**hooks):
    return SimpleNamespace(**{name: hookimpl(_named(name, hook)) for name, hook in hooks.items()})


def _named(name, hook):
    hook.__name__ = name
    return hook


@pytest.fixture
def placer(tmp_path):
    def make(overrides=None, toml="", backend=None, containers=None, policy=None):
        file = tmp_path / "system.toml"
        file.write_text(toml)
        plugins = Plugins()
        plugins.register(plugin(drawbar_register_backends=lambda: [Plain, Farm, Broken]), "backends")
        if policy is not None:
            plugins.register(plugin(drawbar_place=policy), "policy")
        settings = load_settings(
            start=tmp_path,
            environ={"HOME": str(tmp_path), "DRAWBAR_SYSTEM_CONFIG": str(file)},
            overrides={"backend": "plain", **(overrides or {})},
        )
        return Placer(settings, plugins, backend=backend, containers=containers)

    return make


def test_images_resolve_by_what_a_backend_can_run_and_are_refused_before_the_first_job(placer):
    toml = """[images]
allow = ["registry.org/*"]
rewrites = { "docker.io/" = "/unpacked/", "docker.io/mine" = "registry.org/mirror" }
"""
    one = placer(toml=toml, backend="farm")
    assert one.place(step="a", image="mine/img:1").image == "registry.org/mirror/img:1"
    with pytest.raises(SpecError) as caught:
        check_places(one, WorkflowInfo(steps=(StepInfo(name="fit", image="img:1"), StepInfo(name="b"))))
    (problem,) = caught.value.problems
    assert (problem.step, "img:1" in problem.message) == ("fit", True)
    assert "registry.org/*" in problem.hint
    ignoring = placer(toml=toml, backend="farm", containers=Containers.NONE)
    assert not ignoring.place(step="a", image="img:1").container


def test_a_name_that_is_no_image_is_refused_when_it_is_to_be_run(placer):
    with pytest.raises(Unsupported, match="no image"):
        placer(backend="farm").place(step="a", image="../up")


# which backend


def test_without_a_wish_it_is_the_one_of_the_settings(placer):
    placement = placer().place(step="a")
    assert (placement.backend, placement.container, placement.image, placement.hints) == (
        "plain",
        False,
        None,
        {},
    )


def test_a_step_may_name_one(placer):
    assert placer().place(step="a", hints={"compute_backend": "farm"}).backend == "farm"


def test_a_step_may_name_a_configured_one(placer):
    chosen = placer(toml='[backends.big]\nkind = "farm"\n').place(step="a", hints={"compute_backend": "big"})
    assert chosen.backend == "big"


def test_the_users_word_wins(placer):
    assert placer(backend="farm").place(step="a", hints={"compute_backend": "plain"}).backend == "farm"
    assert placer(backend="farm").place(step="a", hints={"compute_backend": "nowhere"}).backend == "farm"


def test_site_policy_decides_where_the_step_does_not(placer):
    site = placer(policy=lambda step, backends: "farm" if step == "big" else None)
    assert [site.place(step=step).backend for step in ("big", "small")] == ["farm", "plain"]
    assert site.place(step="big", hints={"compute_backend": "plain"}).backend == "plain"


@pytest.mark.parametrize("name", ["nowhere", 3, None, ["farm"]])
def test_a_name_that_nobody_has_is_refused_with_those_there_are(placer, name):
    if name is None:
        assert placer().place(step="a", hints={"compute_backend": None}).backend == "plain"
        return
    with pytest.raises(Unsupported) as caught:
        placer().place(step="fit", hints={"compute_backend": name})
    (problem,) = caught.value.problems
    assert (problem.step, repr(name) in problem.message) == ("fit", True)
    assert "farm, plain" in problem.hint
    assert "--backend" in problem.hint


def test_a_backend_that_settings_name_and_nobody_has_is_an_error(placer):
    with pytest.raises(PluginError, match="farmm"):
        placer({"backend": "farmm"}).place(step="a")


def test_a_backend_is_made_once(placer):
    one = placer()
    assert one.get("farm") is one.get("farm")


# hints


def test_hints_for_other_backends_are_ignored(placer):
    hints = {"farm_partition": "long", "farm_time": "no number", "kubernetes_memory_limit": "8Gi"}
    placement = placer().place(step="a", hints=hints)
    assert placement.hints == {}


def test_a_backends_own_hints_are_understood_in_any_spelling(placer):
    placement = placer(backend="farm").place(step="a", hints={"farm_partition": "long", "minutes": 5, "x": 1})
    assert placement.hints == {"farm": {"farm_partition": "long", "minutes": 5}}
    assert placement.resources == Resources(walltime_s=300)


def test_hints_are_kept_under_the_configured_name(placer):
    one = placer(toml='[backends.big]\nkind = "farm"\n', backend="big")
    assert one.place(step="a", hints={"minutes": 5}).hints == {"big": {"minutes": 5}}


@pytest.mark.parametrize("hints", [{"farm_time": "soon"}, {"minutes": -1}])
def test_a_wrong_hint_is_refused_with_the_step(placer, hints):
    with pytest.raises(Unsupported) as caught:
        placer(backend="farm").place(step="fit", hints=hints)
    assert "fit" in str(caught.value)


# images


def test_a_backend_with_containers_uses_the_image(placer):
    placement = placer(backend="farm").place(step="a", image="img:1")
    assert (placement.container, placement.image) == (True, "img:1")


def test_an_image_that_is_a_hint_never_refuses_a_backend(placer):
    placement = placer().place(step="a", image="img:1")
    assert (placement.container, placement.image) == (False, "img:1")


def test_an_image_that_is_required_refuses_one_without_containers_with_the_remedy(placer):
    with pytest.raises(Unsupported) as caught:
        placer().place(step="fit", image="img:1", image_required=True)
    (problem,) = caught.value.problems
    assert problem.step == "fit"
    assert "img:1" in problem.message
    assert "--no-container" in problem.hint
    assert "--backend" in problem.hint


@pytest.mark.parametrize("said", ["by the user", "by settings"])
@pytest.mark.parametrize("backend", ["plain", "farm"])
def test_images_are_left_out_on_somebodys_word(placer, said, backend):
    if said == "by the user":
        one = placer(backend=backend, containers=Containers.NONE)
    else:
        one = placer({"containers": "none"}, backend=backend)
    placement = one.place(step="a", image="img:1", image_required=True)
    assert (placement.container, placement.image) == (False, "img:1")


def test_the_users_word_on_images_wins_over_settings(placer):
    one = placer({"containers": "none"}, backend="farm", containers=Containers.AUTO)
    assert one.place(step="a", image="img:1").container


def test_an_alias_of_the_site_replaces_an_image(placer):
    one = placer({"images.aliases.img:1": "mirror/img:1"}, backend="farm")
    assert one.place(step="a", image="img:1").image == "mirror/img:1"
    assert one.place(step="a", image="img:2").image == "img:2"


# refused


def test_what_a_backend_can_never_run_is_refused_with_its_words(placer):
    with pytest.raises(Unsupported, match=r"fit.*'plain'.*no GPUs"):
        placer().place(step="fit", resources=Resources(gpus=1))


def test_a_backend_hears_what_of_the_workspace_a_job_needs(placer, monkeypatch):
    def refuses(_, spec):
        return "shares no files" if spec.workspace is WorkspaceNeed.SHARED else None

    monkeypatch.setattr(Plain, "refuses", refuses)
    assert placer().place(step="a", workspace=WorkspaceNeed.DECLARED).backend == "plain"
    with pytest.raises(Unsupported, match=r"fit.*shares no files"):
        placer().place(step="fit")
    info = WorkflowInfo(
        steps=(StepInfo(name="a", workspace=WorkspaceNeed.NONE), StepInfo(name="b"), StepInfo(name="c"))
    )
    with pytest.raises(SpecError) as caught:
        check_places(placer(), info)
    assert [problem.step for problem in caught.value.problems] == ["b, c"]


def test_a_backend_that_fails_at_judging_is_named(placer):
    with pytest.raises(PluginError, match=r"'broken'.*oops"):
        placer(backend="broken").place(step="a")


def test_all_steps_are_judged_before_the_first_job(placer):
    gpu = Resources(gpus=1)
    info = WorkflowInfo(
        steps=(
            StepInfo(name="a", resources=gpu),
            StepInfo(name="b", image="img:1"),
            StepInfo(name="c", image="img:1", image_required=True),
        )
    )
    with pytest.raises(SpecError) as caught:
        check_places(placer(), info)
    assert [problem.step for problem in caught.value.problems] == ["a", "c"]
    found = [place for _, place in places(placer(), info)]
    assert [isinstance(place, SpecError) for place in found] == [True, False, True]
    fine = WorkflowInfo(steps=(info.steps[1], replace(info.steps[1], name="d"), StepInfo(name="e")))
    assert ignored_images(check_places(placer(), fine)) == ["img:1"]
    assert ignored_images(check_places(placer(backend="farm"), fine)) == []


def test_images_without_a_version_are_named(placer):
    names = ("a", "b:latest", "c:1", "/unpacked/d", None, "a")
    info = WorkflowInfo(steps=tuple(StepInfo(name=str(i), image=each) for i, each in enumerate(names)))
    assert floating_images(check_places(placer(backend="farm"), info)) == ["a", "b:latest"]
    assert floating_images(check_places(placer(), info)) == []


# what a job needs of its engine where it runs


def test_an_engines_library_is_where_settings_say_it_is(placer):
    toml = '[backends.plain]\nengine_interpreter = "/opt/python"\n[backends.farm]\nengine_image = "lib:1"\n'
    site = placer(toml=toml)
    assert site.place(step="a", library="Lib 1").interpreter == "/opt/python"
    assert site.place(step="a").interpreter is None
    chosen = site.place(step="a", library="Lib 1", image="own:1", hints={"compute_backend": "farm"})
    assert (chosen.container, chosen.image) == (True, "lib:1")


def test_a_library_that_is_nowhere_is_refused_with_the_remedies(placer):
    with pytest.raises(Unsupported) as caught:
        placer().place(step="fit", library="Lib 1")
    (problem,) = caught.value.problems
    assert problem.step == "fit"
    assert "needs Lib 1" in problem.message
    for remedy in ("engine_interpreter", "engine_image", "[backends.plain]"):
        assert remedy in problem.hint
    with pytest.raises(Unsupported, match="the image own:1") as caught:
        placer(backend="farm").place(step="fit", library="Lib 1", image="own:1")
    for remedy in ("engine_image under [backends.farm]", "--no-container"):
        assert remedy in caught.value.problems[0].hint


def test_without_a_container_a_library_is_on_this_host(placer):
    site = placer(toml='[backends.farm]\nengine_image = "lib:1"\n', containers=Containers.NONE)
    with pytest.raises(Unsupported):
        site.place(step="a", library="Lib 1", hints={"compute_backend": "farm"})
    site.get("farm").features = frozenset({BackendFeature.CONTAINERS, BackendFeature.THIS_HOST})
    assert not site.place(step="a", library="Lib 1", hints={"compute_backend": "farm"}).container
