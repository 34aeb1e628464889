"""The pool of tests/clusters/htcondor, for tests with the mark `htcondor`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
from drawbar.testing.driver import Driver
from drawbar_htcondor.backend import HTCondorBackend

SCRIPT = Path(__file__).parents[2] / "clusters" / "htcondor"


class Pool:
    """A running pool, and what tests do to it. `options` are those of a backend that uses it."""

    options: ClassVar = {"calls_per_minute": 600.0, "settle_s": 8.0, "grace_s": 1.0, "poll_s": 2.0}

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def pid(self, daemon: str) -> int:
        done = subprocess.run([SCRIPT, "pid", daemon], capture_output=True, text=True, check=True, timeout=60)
        return int(done.stdout)

    def run(self, command: str, *arguments: str) -> str:
        """A command of HTCondor, as the user of the pool."""
        argv = [f"{self.variables['DBTEST_CONDOR_BIN']}/{command}", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    def backend(self, **options) -> HTCondorBackend:
        return HTCondorBackend(HTCondorBackend.Options.parse({**self.options, **options}, where="test"))


def usable() -> dict[str, str] | None:
    """The variables of a pool that answers, or None."""
    try:
        shown = subprocess.run([SCRIPT, "env"], capture_output=True, text=True, check=True, timeout=10).stdout
        variables = dict(line.split("=", 1) for line in shown.splitlines())
        query = [f"{variables['DBTEST_CONDOR_BIN']}/condor_q"]
        subprocess.run(query, capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return variables


@pytest.fixture(scope="session")
def variables(cluster_missing):
    found = usable() or cluster_missing("htcondor", "HTCondor")
    os.environ["CONDOR_CONFIG"] = found["CONDOR_CONFIG"]  # read once, when the bindings are imported
    return found


@pytest.fixture
def pool(variables):
    """Files made in a test can be used by the user of the pool."""
    before = os.umask(0)
    yield Pool(variables)
    os.umask(before)


@pytest.fixture
def shared(pool):
    """A directory that the machines of the pool see."""
    directory = Path(tempfile.mkdtemp(prefix="test-", dir=pool.variables["DBTEST_SHARED"]))
    directory.chmod(0o777)
    yield directory
    with contextlib.suppress(OSError):  # a job that is being ended may still write
        shutil.rmtree(directory)


@pytest.fixture
def open_driver(pool, shared):
    """Opens backends on the real pool; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(**options):
        workspace = shared / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(lambda: pool.backend(**options), workspace, patience_s=120, image=None)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()
