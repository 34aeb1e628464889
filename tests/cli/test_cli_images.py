"""`drawbar images`, and the backend that is picked, where no container engine is needed to see them."""

from __future__ import annotations

IMAGE = "example.org/image:1"
NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock", "DRAWBAR_APPTAINER_PROGRAM": "no-such-program"}


def test_images_that_are_not_used_are_listed_as_such(cli):
    document = cli.analysis({"one": ["true"], "two": ["true"]})
    (row,) = cli.json("images", document)
    assert (row["image"], row["steps"], row["backend"]) == (IMAGE, ["one", "two"], "local")
    assert (row["resolved"], row["here"], row["problem"]) == (None, None, None)
    assert "not used" in cli("images", document).stdout


def test_what_the_site_does_not_allow_is_listed_and_refused(cli):
    document = cli.analysis({"one": ["true"]})
    site = {"DRAWBAR_CONTAINERS": "auto", "DRAWBAR_IMAGES_ALLOW": "docker.io/*"}
    (row,) = cli.json("images", document, "--backend", "docker", status=2, **site)
    assert not row["allowed"]
    assert "images.allow" in row["problem"]
    for command in ("validate", "plan", "run"):
        refused = cli(command, document, "--backend", "docker", status=2, **site)
        assert "step one: the site does not allow the image" in refused.stderr
    assert not list((cli.home / "runs").glob("*")), "nothing was left of the run"


def test_an_image_is_looked_for_where_it_would_run(cli):
    document = cli.analysis({"one": ["true"]})
    (row,) = cli.json(
        "images", document, "--backend", "docker", **NO_ENGINE, DRAWBAR_CONTAINERS="auto", status=0
    )
    assert (row["resolved"], row["here"], row["allowed"]) == (IMAGE, None, True)
    assert "no container engine answers" in row["problem"]


def test_a_run_says_where_it_runs_and_why(cli):
    document = cli.analysis({"one": ["true"]})
    assert "  runs on local: images are not used, as asked for\n" in cli("run", document).stderr
    assert "runs on" not in cli("run", document, "--backend", "local").stderr


def test_a_run_that_nothing_here_can_run_says_what_is_missing_before_anything_runs(cli):
    document = cli.analysis({"one": ["touch ran"]})
    refused = cli("run", document, status=2, **NO_ENGINE, DRAWBAR_CONTAINERS="auto")
    for words in (
        f"needs the image {IMAGE}",
        "no container engine answers",
        "install Apptainer",
        "--no-container",
    ):
        assert words in refused.stderr
    assert "running" not in refused.stderr
    assert not list((cli.home / "runs").glob("*"))
