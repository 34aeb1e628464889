"""The example in containers, in its four languages."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
from drawbar.images import Pull
from drawbar_docker import containers
from drawbar_docker.images import Images

PUBLISHED = "quay.io/jupyter/scipy-notebook:2025-03-14"
LOCAL = "drawbar-test/scientific-python:1"
LIBRARIES = (
    *("numpy", "numpy.libs", "matplotlib", "mpl_toolkits", "contourpy", "cycler", "dateutil", "fontTools"),
    *("kiwisolver", "packaging", "PIL", "pillow.libs", "pyparsing", "six.py"),
)


@pytest.fixture(scope="module")
def scientific_python(host):
    """Python with numpy and matplotlib: a Debian image, and the libraries that these tests run with."""
    import docker

    client = docker.APIClient(base_url=host, version="auto", timeout=300)
    try:
        if client.images(LOCAL):
            return
        if sys.version_info[:2] != (3, 11):
            pytest.skip("the libraries of this Python are not for the image's Python 3.11")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name in LIBRARIES:
                for site in map(Path, sys.path):
                    if site.name == "site-packages" and (site / name).exists():
                        tar.add(site / name, name, filter=_as_root)
                        break
        made = client.create_container("python:3-slim", ["true"])["Id"]
        client.put_archive(made, "/usr/local/lib/python3.11/dist-packages", archive.getvalue())
        repository, _, tag = LOCAL.partition(":")
        client.commit(made, repository, tag)
        client.remove_container(made)
    finally:
        client.close()


def _as_root(member):
    if "__pycache__" in member.name or "/tests" in member.name:
        return None
    member.uid = member.gid = 0
    return member


def test_the_example_is_the_same_in_four_engines(tmp_path, scientific_python, engine, four_engines):
    known = Images(engine, Pull.NEVER).look(LOCAL)
    settings = f'[images.aliases]\n"{PUBLISHED}" = "{LOCAL}"\n'
    runs = four_engines(tmp_path, settings, "--backend", "docker")
    for run in runs.values():
        jobs = run["jobs"]
        assert {job["backend"] for job in jobs} == {"docker"}
        assert {job["image"] for job in jobs} == {LOCAL}
        assert {job["image_digest"] for job in jobs} == {known.digest}
    made = list((tmp_path / "results").rglob("*.png"))
    assert len(made) == len(runs)
    assert {path.stat().st_uid for path in made} == {os.getuid()}
    assert engine.containers(containers.TAG) == []
