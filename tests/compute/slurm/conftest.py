"""The Slurm of tests/clusters/slurm, for tests with the mark `slurm`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from drawbar.testing.driver import Driver
from drawbar_slurm.backend import SlurmBackend

SCRIPT = Path(__file__).parents[2] / "clusters" / "slurm"
ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - name: first
        environment: docker.io/library/python:3.12
        compute_backend: slurmcern
        slurm_partition: debug
        slurm_time: "5"
        commands: ["echo $$SLURM_JOB_PARTITION > first.txt"]
      - name: second
        environment: docker.io/library/python:3.12
        compute_backend: local
        commands: ["cat first.txt > second.txt; echo here $$SLURM_JOB_ID >> second.txt"]
outputs:
  files: [second.txt]
"""
SETTINGS = """
[backends.slurmcern]
kind = "slurm"
partition = "long"
poll_s = 2
"""


class Cluster:
    """A running cluster, and what tests do to it. `options` are those of a backend that uses it."""

    private = Path(os.environ.get("DBTEST_SLURM_ROOT", "/var/tmp/dbtest-slurm"), "private")
    """A directory that is another one on each node."""

    options: ClassVar = {"calls_per_minute": 600, "settle_s": 5.0, "grace_s": 1.0, "poll_s": 2.0}

    def pid(self, daemon: str) -> int:
        return int(self.script("pid", daemon))

    def script(self, *arguments: str) -> str:
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=True, timeout=120)
        return done.stdout.strip()

    def run(self, *argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    def backend(self, **options) -> SlurmBackend:
        return SlurmBackend(SlurmBackend.Options.parse({**self.options, **options}, where="test"))


def usable() -> str | None:
    """The configuration of a Slurm that answers, or None."""
    try:
        shown = subprocess.run([SCRIPT, "env"], capture_output=True, text=True, check=True, timeout=10).stdout
        configuration = shown.strip().partition("=")[2]
        environment = {**os.environ, "SLURM_CONF": configuration}
        subprocess.run(["sinfo"], env=environment, capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return configuration


@pytest.fixture(scope="session")
def configuration(cluster_missing):
    return usable() or cluster_missing("slurm", "Slurm")


@pytest.fixture
def slurm(configuration, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", configuration)
    return Cluster()


@pytest.fixture
def open_driver(slurm, tmp_path):
    """Opens backends on the real cluster; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(directory=None, **options):
        workspace = directory or tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(lambda: slurm.backend(**options), workspace.resolve(), patience_s=120, image=None)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture
def drawbar(slurm, tmp_path):
    """The command line, in a directory with an analysis of two steps."""
    (tmp_path / "drawbar.toml").write_text(SETTINGS)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "reana.yaml").write_text(ANALYSIS)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF")},
        "DRAWBAR_HOME": str(tmp_path / "home"),
        "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "drawbar.toml"),
        "XDG_CONFIG_HOME": str(tmp_path / "nothing"),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=tmp_path / "analysis",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
