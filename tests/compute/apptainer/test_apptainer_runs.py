"""Analyses in images, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.apptainer

PUBLISHED = "quay.io/jupyter/scipy-notebook:2025-03-14"
ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - name: wait
        environment: {image}
        commands:
          - echo started >> ledger; while [ ! -e gate ]; do sleep 0.1; done; cat /etc/debian_version >> ledger
outputs:
  files: [ledger]
"""


class Site:
    """An analysis of one step that waits for a gate, and a home."""

    def __init__(self, directory: Path, image: str) -> None:
        self.directory = directory
        self.workspace = directory / "workspace"
        self.ledger = self.workspace / "ledger"
        self.settings = directory / "site.toml"
        self.settings.write_text('containers = "apptainer"\n')
        (directory / "analysis").mkdir()
        (directory / "analysis" / "reana.yaml").write_text(ANALYSIS.format(image=image))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=self.directory / "analysis",
            env={
                **os.environ,
                "DRAWBAR_HOME": str(self.directory / "home"),
                "DRAWBAR_SYSTEM_CONFIG": str(self.settings),
                "COLUMNS": "1000",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def drawbar(self, *arguments: str, status: int = 0) -> str:
        process = self.start(*arguments)
        printed, told = process.communicate(timeout=120)
        assert process.returncode == status, told
        return printed + told

    def begin(self) -> subprocess.Popen[str]:
        """A run whose job has begun."""
        process = self.start("run", "--name", "r", "--workspace", str(self.workspace))
        wait_for(self.ledger.exists)
        return process


@pytest.fixture
def make_site(apptainer, tmp_path):
    def make(image):
        return Site(tmp_path, str(image))

    return make


def wait_for(condition):
    give_up = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def processes_at(directory: Path) -> list[str]:
    """Processes that work below a directory of this test, wherever they are by now."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and str(directory).encode() in (each / "cmdline").read_bytes():
                found.append(each.name)
        except OSError:
            continue
    return found


def test_a_job_outlives_a_killed_driver_and_is_attached_to(make_site, images):
    site = make_site(images / "python.sif")
    driver = site.begin()
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert "interrupted" in site.drawbar("status", "r")
    resumed = site.start("resume", "r", "--json")
    (site.workspace / "gate").touch()
    printed, told = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, told
    (job,) = json.loads(printed)["jobs"]
    assert job["state"] == "finished"
    lines = site.ledger.read_text().splitlines()
    assert lines[0] == "started"
    assert lines[1].startswith("12.")
    assert len(lines) == 2
    assert not list((site.directory / "home").glob("runs/*/attempts/*.scratch"))


def test_a_cancelled_run_leaves_nothing(make_site, images):
    site = make_site(images / "python")
    driver = site.begin()
    site.drawbar("cancel", "r")
    _, told = driver.communicate(timeout=120)
    assert driver.returncode != 0, told
    wait_for(lambda: not processes_at(site.workspace))


def test_another_image_at_the_same_path_repeats_the_job(make_site, images, tmp_path):
    image = tmp_path / "an.sif"
    shutil.copy(images / "python.sif", image)
    site = make_site(image)
    site.workspace.mkdir()
    (site.workspace / "gate").touch()
    site.drawbar("run", "--name", "r", "--workspace", str(site.workspace))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    (manifest,) = (site.directory / "home").glob("runs/*/manifest.json")
    (job,) = json.loads(manifest.read_text())["jobs"]
    assert job["image_digest"] == f"sha256:{digest}"
    assert "again" not in site.drawbar("resume", "r")
    with image.open("ab") as file:
        file.write(b"more")
    assert f"the image {image} is another one now" in site.drawbar("resume", "r")


def test_images_of_a_registry_may_be_unpacked_ones_of_cvmfs(make_site, images, tmp_path):
    """The site rewrites names to where a tag is a link to the directory with the image's digest."""
    unpacked = tmp_path / "unpacked.cern.ch"
    flat = unpacked / ".flat" / "ab" / "abcd"
    flat.parent.mkdir(parents=True)
    flat.symlink_to(images / "python")
    tags = unpacked / "registry.hub.docker.com" / "library"
    tags.mkdir(parents=True)
    (tags / "python:3.11").symlink_to("../../.flat/ab/abcd")
    site = make_site("python:3.11")
    with site.settings.open("a") as file:
        file.write(f'[images.rewrites]\n"docker.io/" = "{unpacked}/registry.hub.docker.com/"\n')
    site.workspace.mkdir()
    (site.workspace / "gate").touch()
    assert f"{tags}/python:3.11" in site.drawbar("plan")
    site.drawbar("run", "--name", "r", "--workspace", str(site.workspace))
    assert "12." in site.ledger.read_text()


def test_what_is_missing_is_told_before_anything_runs(make_site, images, tmp_path, monkeypatch):
    site = make_site(images / "not-there.sif")
    for command in ("plan", "validate", "run"):
        assert "not-there.sif is not here" in site.drawbar(command, status=2)
    (site.directory / "analysis" / "reana.yaml").write_text(ANALYSIS.format(image=images / "python"))
    assert str(images / "python") in site.drawbar("plan")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for command in ("plan", "validate", "run"):
        told = site.drawbar(command, "--backend", "local", status=2)
        assert "the program 'apptainer' to run images" in told
        assert "--no-container" in told
    assert "run without their images" in site.drawbar("plan", "--no-container")


def test_an_image_that_no_registry_gives_fails_its_step_with_the_remedy(make_site):
    site = make_site("localhost:9/group/python:3")  # nobody listens there
    told = site.drawbar("run", status=1)
    assert "fetching the image localhost:9/group/python:3" in told
    assert "cannot be fetched" in told
    assert "connection refused" in told
    assert "images.aliases" in told


@pytest.mark.slow
def test_the_example_in_four_engines(apptainer, scientific_python, four_engines, tmp_path):
    """In an image that stands in for the published one by an alias."""
    settings = f'containers = "apptainer"\n[images.aliases]\n"{PUBLISHED}" = "{scientific_python}"\n'
    runs = four_engines(tmp_path, settings)
    for run in runs.values():
        assert {job["backend"] for job in run["jobs"]} == {"local"}
    assert list((tmp_path / "home").glob("runs/*/attempts/*/inside"))
    assert not list((tmp_path / "home").glob("runs/*/attempts/*.scratch"))
