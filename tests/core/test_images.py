"""What an image's name stands for, and what the site's policy makes of it."""

from __future__ import annotations

import string

import pytest
from drawbar.images import full_name, is_floating, refusal, resolve
from drawbar.settings import Images
from hypothesis import given
from hypothesis import strategies as st

DIGEST = "sha256:" + "0a" * 32
CVMFS = "/cvmfs/unpacked.cern.ch/registry.hub.docker.com"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("docker://python", "docker.io/library/python:latest"),
        ("docker.io/python:3", "docker.io/library/python:3"),
        ("index.docker.io/atlas/a:1", "docker.io/atlas/a:1"),
        ("atlas/a", "docker.io/atlas/a:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b/c:1.0-x", "localhost:5000/a/b/c:1.0-x"),
        (f"python@{DIGEST}", f"docker.io/library/python@{DIGEST}"),
        (f"ghcr.io/a/b:1@{DIGEST}", f"ghcr.io/a/b:1@{DIGEST}"),
        (DIGEST, DIGEST),
        ("/images//a.sif", "/images/a.sif"),
        ("a.sif", "a.sif"),
        ("oras://registry.org/a:1", "oras://registry.org/a:1"),
    ],
)
def test_a_name_in_full(name, full):
    assert full_name(name) == full
    assert full_name(full) == full


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "A/b",
        "a b",
        "../a",
        "/a/../b",
        "a:",
        "a/",
        "a//b",
        "a:b:c",
        "a@sha256:12",
        "a\nb",
        "-a",
        "/a\0b",
    ],
)
def test_what_names_no_image(name):
    with pytest.raises(ValueError, match="is no image"):
        full_name(name)


@pytest.mark.parametrize("named", ["python:2.7", "docker.io/library/python:2.7", "docker://python:2.7"])
def test_an_alias_holds_for_every_way_to_write_a_name(named):
    assert resolve(named, Images(aliases={"python:2.7": "own/python:2"})) == "own/python:2"
    assert resolve("python:2.8", Images(aliases={"python:2.7": "own/python:2"})) == "python:2.8"


@pytest.mark.parametrize(
    ("rewrites", "image", "outcome"),
    [
        ({"docker.io": "mirror.org"}, "python:3", "mirror.org/library/python:3"),
        ({"docker.io/": "mirror.org/hub"}, "python:3", "mirror.org/hub/library/python:3"),
        ({"docker.io/lib": "no"}, "python:3", "python:3"),
        ({"docker.io/library/python": "own/python"}, "python:3", "own/python:3"),
        ({"docker.io": "no", "docker.io/atlas": "own"}, "atlas/a:1", "own/a:1"),
        ({"docker://": "mirror.org"}, "ghcr.io/a:1", "mirror.org/ghcr.io/a:1"),
        ({"docker://": "mirror.org"}, "/cvmfs/a", "/cvmfs/a"),
        ({"docker://": "mirror.org"}, "oras://a/b:1", "oras://a/b:1"),
        ({"docker.io/": CVMFS + "/"}, "python:3", f"{CVMFS}/library/python:3"),
        ({"docker.io/": "/images/*.sif"}, "python:3", "/images/library/python:3.sif"),
        ({"docker.io/library/python:3": "/images/p.sif"}, "python:3", "/images/p.sif"),
        ({CVMFS: "docker.io"}, f"{CVMFS}/library/python:3", "docker.io/library/python:3"),
    ],
)
def test_rewrites(rewrites, image, outcome):
    assert resolve(image, Images(rewrites=rewrites), files=True) == outcome


def test_paths_are_passed_over_where_only_images_of_a_registry_can_be_run():
    policy = Images(
        aliases={"a:1": "/images/a.sif"},
        rewrites={"docker.io/library": "/unpacked", "docker.io": "mirror.org"},
    )
    assert resolve("a:1", policy) == "mirror.org/library/a:1"
    assert resolve("a:1", policy, files=True) == "/images/a.sif"
    assert resolve("b:1", policy, files=True) == "/unpacked/b:1"


def test_an_alias_is_rewritten_and_what_is_run_has_to_be_allowed():
    policy = Images(aliases={"a": "atlas/b:1"}, rewrites={"docker.io": "mirror.org"}, allow=("mirror.org/*",))
    assert resolve("a", policy) == "mirror.org/atlas/b:1"
    assert refusal(resolve("a", policy), policy) is None
    assert "images.allow" in str(refusal("ghcr.io/atlas/b:1", policy))
    assert refusal("/mirror.org/a", policy)
    assert refusal("mirror.org.evil.org/a:1", policy)


@given(st.text(string.ascii_lowercase + string.digits + "./:@-_*", max_size=30))
def test_no_name_leads_out_of_where_images_are(name):
    try:
        image = resolve(name, Images(rewrites={"docker.io/": "/images/*.sif"}), files=True)
    except ValueError:
        return
    assert ".." not in image.split("/")
    assert image.startswith("/images/") or image == name


@pytest.mark.parametrize(
    ("name", "floating"),
    [("a", True), ("a:latest", True), ("a:1", False), (f"a@{DIGEST}", False), (DIGEST, False), ("/a", False)],
)
def test_floating_names(name, floating):
    assert is_floating(name) is floating
