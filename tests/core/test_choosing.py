"""Where an analysis runs when nobody says it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from drawbar import hookimpl
from drawbar.backend import API, Backend, BackendFeature
from drawbar.choosing import choose
from drawbar.engine import StepInfo, WorkflowInfo
from drawbar.errors import Problem, SpecError, Unsupported
from drawbar.placement import Placer, places
from drawbar.plugins import Plugins
from drawbar.settings import Containers, load_settings

PLAIN = StepInfo(name="plain")
HINTED = StepInfo(name="hinted", image="img:1")
NEEDED = StepInfo(name="needed", image="img:1", image_required=True)
UNPACKED = StepInfo(name="unpacked", image="/cvmfs/img", image_required=True)


class Local(Backend):
    name = "local"
    api = API
    features = frozenset({BackendFeature.RUNTIME})

    def submit(self, attempts):
        return []

    def find(self, attempts):
        return {}

    def cancel(self, attempts):
        pass


class Docker(Local):
    name = "docker"
    features = frozenset({BackendFeature.CONTAINERS})
    answers = True

    def check(self):
        return [] if self.answers else [Problem(message="no container engine answers")]

    def refuses(self, spec):
        return "no image of a registry" if spec.image and spec.image.startswith("/") else None


class Silent(Docker):
    answers = False


@pytest.fixture
def site(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def make(*, engine=False, apptainer=False, overrides=None, **fields):
        if apptainer:
            (programs / "apptainer").write_text("#!/bin/sh\n")
            (programs / "apptainer").chmod(0o755)
        (tmp_path / "none.toml").touch()
        backends = [Local, Docker if engine else Silent]
        plugins = Plugins()
        register = hookimpl(lambda: backends, specname="drawbar_register_backends")
        plugins.register(SimpleNamespace(drawbar_register_backends=register), "backends")
        environ = {"HOME": str(tmp_path), "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "none.toml")}
        settings = load_settings(start=tmp_path, environ=environ, overrides=overrides)
        return Placer(settings, plugins, **fields)

    return make


def chosen(placer, *steps):
    """What is chosen, and the line; and then where steps go, and whether in their images."""
    info = WorkflowInfo(steps=steps)
    choice = choose(placer, info)
    return choice, [
        (place.backend, place.container) if not isinstance(place, SpecError) else None
        for _, place in places(placer, info)
    ]


def test_a_container_engine_that_answers_runs_what_names_an_image(site):
    choice, where = chosen(site(engine=True, apptainer=True), PLAIN, NEEDED)
    assert str(choice) == "runs on docker: steps name images, and a container engine answers"
    assert where == [("docker", False), ("docker", True)]


def test_without_an_engine_apptainer_does(site):
    choice, where = chosen(site(apptainer=True), PLAIN, NEEDED)
    assert str(choice) == (
        "runs on local: steps name images, and apptainer runs them, since no container engine answers"
    )
    assert where == [("local", False), ("local", True)]


def test_what_an_engine_cannot_run_goes_to_apptainer(site):
    choice, where = chosen(site(engine=True, apptainer=True), UNPACKED)
    assert choice.containers is Containers.APPTAINER
    assert where == [("local", True)]


def test_without_images_it_is_this_machine(site):
    choice, where = chosen(site(engine=True), PLAIN)
    assert str(choice) == "runs on local: no step names an image"
    assert where == [("local", False)]


def test_images_that_are_not_wanted_choose_nothing(site):
    choice, where = chosen(site(engine=True, containers=Containers.NONE), NEEDED)
    assert str(choice) == "runs on local: images are not used, as asked for"
    assert where == [("local", False)]


@pytest.mark.parametrize(
    ("containers", "backend"), [(Containers.DOCKER, "docker"), (Containers.APPTAINER, "local")]
)
def test_the_program_that_is_asked_for_is_the_one(site, containers, backend):
    _, where = chosen(site(engine=True, apptainer=True, containers=containers), NEEDED)
    assert where == [(backend, True)]


def test_a_required_image_that_nothing_can_run_is_told_with_the_ways_out(site):
    with pytest.raises(Unsupported) as caught:
        choose(site(), WorkflowInfo(steps=(PLAIN, NEEDED)))
    (problem,) = caught.value.problems
    assert problem.step == "needed"
    for word in ("img:1", "no container engine answers", "'apptainer' is not installed"):
        assert word in problem.message
    for remedy in ("Docker", "Podman", "Apptainer", "--backend", "--no-container"):
        assert remedy in problem.hint


def test_an_image_that_is_only_a_hint_is_left_out_then(site):
    choice, where = chosen(site(), HINTED)
    assert "images are only hints" in str(choice)
    assert where == [("local", False)]


def test_nothing_is_chosen_where_somebody_said_it(site):
    named = StepInfo(name="s", image="img:1", hints={"compute_backend": "local"})
    info = WorkflowInfo(steps=(NEEDED,))
    assert choose(site(engine=True, backend="local"), info) is None
    assert choose(site(engine=True, overrides={"backend": "local"}), info) is None
    assert choose(site(engine=True), WorkflowInfo(steps=(named,))) is None


def test_a_configured_engine_is_taken_by_its_name(site, tmp_path):
    placer = site(engine=True)
    (tmp_path / "drawbar.toml").write_text("")
    (tmp_path / "none.toml").write_text("[backends.box]\nkind = 'docker'\n")
    environ = {"HOME": str(tmp_path), "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "none.toml")}
    placer.settings = load_settings(start=tmp_path, environ=environ)
    _, where = chosen(placer, NEEDED)
    assert where == [("box", True)]
