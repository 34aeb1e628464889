"""Analyses in containers, through the command line."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from drawbar_docker import containers

pytestmark = pytest.mark.docker

EXAMPLE = Path(__file__).parents[3] / "examples" / "dimuon"
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


@pytest.fixture
def analysis(tmp_path, engine, monkeypatch):
    """The example, with a site that has its image under another name."""
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    directory = tmp_path / "dimuon"
    shutil.copytree(EXAMPLE, directory)
    (directory / "drawbar.toml").write_text(f'[images.aliases]\n"{PUBLISHED}" = "{LOCAL}"\n')
    return directory


def drawbar(*arguments, status=0):
    program = Path(sys.executable).with_name("drawbar")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done


def test_the_example_runs_in_containers(analysis, tmp_path, scientific_python, engine):
    run = drawbar("run", analysis, "--backend", "docker", "--outputs", tmp_path / "out", "--test", "--json")
    assert run["state"] == "finished"
    assert {job["backend"] for job in run["jobs"]} == {"docker"}
    fit = json.loads((tmp_path / "out" / "results" / "fit.json").read_text())
    assert abs(fit["parameters"]["mass"]["value"] - 91.19) < 0.5
    plot = tmp_path / "out" / "results" / "dimuon.png"
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_uid == os.getuid()
    assert engine.containers(containers.TAG) == []
    again = drawbar("resume", run["run"], "--json")
    assert [job["started"] for job in again["jobs"]] == [
        job["started"] for job in run["jobs"]
    ]  # none repeated
