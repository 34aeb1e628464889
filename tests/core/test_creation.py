"""A run is made completely or not at all, and nothing is lost that was there."""

import json

import pytest
from drawbar import creation
from drawbar.analysis import load_analysis
from drawbar.creation import analysis_of, create_run, default_name
from drawbar.errors import InfrastructureError, SpecError, UsageError
from drawbar.home import Home
from drawbar.plugins import load_plugins
from drawbar.settings import Settings


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "home")


@pytest.fixture
def settings(home):
    return Settings(home=home.path)


@pytest.fixture
def engines():
    return load_plugins().engines


@pytest.fixture
def analysis(tmp_path, engines):
    root = tmp_path / "analysis"
    (root / "data/deep").mkdir(parents=True)
    (root / "data/deep/x").write_text("x")
    (root / "tool").write_text("#!/bin/sh\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("tool")
    steps = [{"name": "s", "environment": "image", "commands": ["true"]}]
    document = {
        "inputs": {"files": ["tool", "link"], "directories": ["data", "absent"], "parameters": {"n": 1}},
        "workflow": {"type": "serial", "specification": {"steps": steps}},
    }
    (root / "reana.yaml").write_text(json.dumps(document))
    return load_analysis(root, engines=engines)


def tree(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_a_run_has_a_copy_of_its_analysis_and_a_workspace(home, analysis, settings, engines):
    run = create_run(home, analysis, settings=settings, name="n", parameters={"n": 2}, backend="b")
    spec = run.spec()
    assert (run.id, spec.name, spec.engine, spec.backend) == ("n.1", "n", "serial", "b")
    contents = ["absent", "data", "data/deep", "data/deep/x", "link", "tool"]
    assert tree(run.definition) == sorted([*contents, "reana.yaml"])
    assert tree(run.path / "workspace") == contents
    assert (run.path / "workspace/tool").stat().st_mode & 0o111
    assert not (run.path / "workspace/link").is_symlink()
    for as_was in (False, True):
        assert analysis_of(run, engines=engines, as_was=as_was).parameters == {"n": 2}


def test_the_copy_does_not_follow_edits(home, analysis, settings, engines):
    run = create_run(home, analysis, settings=settings)
    (analysis.root / "reana.yaml").write_text("broken: [")
    assert analysis_of(run, engines=engines, as_was=True).engine == "serial"
    with pytest.raises(SpecError):
        analysis_of(run, engines=engines)


def test_after_a_failure_there_is_no_run_and_the_users_workspace_is_as_it_was(
    home, analysis, settings, tmp_path, monkeypatch
):
    own = tmp_path / "own"
    (own / "data").mkdir(parents=True)
    (own / "mine").write_text("mine")

    def fail(*_):
        raise InfrastructureError("no space left")

    monkeypatch.setattr(creation, "write_run", fail)
    with pytest.raises(InfrastructureError):
        create_run(home, analysis, settings=settings, workspace=own)
    assert tree(own) == ["data", "mine"]
    assert list(home.runs()) == []
    assert tree(home.runs_path) == []


def test_a_new_workspace_goes_again_after_a_failure(home, analysis, settings, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(creation, "write_run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        create_run(home, analysis, settings=settings, workspace=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_vanished_is_named(home, analysis, settings):
    (analysis.root / "tool").unlink()
    with pytest.raises(SpecError, match="tool"):
        create_run(home, analysis, settings=settings)
    assert list(home.runs()) == []


def test_two_unfinished_runs_do_not_share_a_workspace(home, analysis, settings, tmp_path):
    first = create_run(home, analysis, settings=settings, workspace=tmp_path / "w")
    with pytest.raises(UsageError, match=first.id):
        create_run(home, analysis, settings=settings, workspace=tmp_path / "w")
    with pytest.raises(UsageError, match=first.id):
        create_run(home, analysis, settings=settings, workspace=tmp_path / "w/below")
    first.write_state({"state": "failed"})
    create_run(home, analysis, settings=settings, workspace=tmp_path / "w")


@pytest.mark.parametrize("name", ["v1.2", ".hidden", "_x", "ünïcode", "a b", "9"])
def test_every_directory_gives_a_name_that_a_run_can_have(tmp_path, engines, home, name, settings):
    root = tmp_path / name
    root.mkdir()
    (root / "s.json").write_text(json.dumps({"steps": [{"environment": "i", "commands": ["true"]}]}))
    analysis = load_analysis(root / "s.json", engines=engines)
    assert create_run(home, analysis, settings=settings).id == f"{default_name(analysis)}.1"
