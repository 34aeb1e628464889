"""The Slurm of tests/clusters/slurm, for tests with the mark `slurm`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
from drawbar.testing.driver import Driver
from drawbar_slurm.backend import SlurmBackend

SCRIPT = Path(__file__).parents[2] / "clusters" / "slurm"


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
