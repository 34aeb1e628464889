"""The pool of tests/clusters/htcondor, for tests with the mark `htcondor`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import pytest
from drawbar.runtime import Runtime
from drawbar.testing.driver import Driver
from drawbar_htcondor.backend import HTCondorBackend

SCRIPT = Path(__file__).parents[2] / "clusters" / "htcondor"


class Pool:
    """A running pool, and what tests do to it. `options` are those of a backend that uses it."""

    options: ClassVar = {"calls_per_minute": 600.0, "settle_s": 8.0, "grace_s": 1.0, "poll_s": 2.0}

    as_user = (
        *("setpriv", "--reuid=20001", "--regid=20001", "--clear-groups"),
        *(
            "--inh-caps=+dac_read_search",
            "--ambient-caps=+dac_read_search",
        ),  # wherever Python and drawbar are
    )
    """What runs a command as the pool's user: whoever submits must be the one that jobs run as."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables

    def pid(self, daemon: str) -> int:
        done = subprocess.run([SCRIPT, "pid", daemon], capture_output=True, text=True, check=True, timeout=60)
        return int(done.stdout)

    def kill(self, *names: str) -> None:
        """Kill processes of the pool by their names, among them its daemons."""
        subprocess.run([SCRIPT, "kill", *names], check=True, timeout=60)

    def run(self, command: str, *arguments: str, root: bool = False) -> str:
        """A command of HTCondor, as the user of the pool, or as its administrator."""
        argv = [f"{self.variables['DBTEST_CONDOR_BIN']}/{command}", *arguments]
        environment = {**os.environ, **({"DBTEST_AS_ROOT": "1"} if root else {})}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(self, condition: Callable[[], object]) -> None:
        give_up = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.2)

    def backend(self, runtime: Runtime | None = None, **options) -> HTCondorBackend:
        backend = HTCondorBackend(HTCondorBackend.Options.parse({**self.options, **options}, where="test"))
        backend.runtime = runtime
        return backend


def usable(suite: str | None = None) -> dict[str, str] | None:
    """The variables of a pool that answers, or None."""
    environment = {**os.environ, **({"DBTEST_CONDOR_SUITE": suite} if suite else {})}
    try:
        shown = subprocess.run(
            [SCRIPT, "env"], env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout
        variables = dict(line.split("=", 1) for line in shown.splitlines())
        query = [f"{variables['DBTEST_CONDOR_BIN']}/condor_q"]
        subprocess.run(query, capture_output=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return variables


@pytest.fixture(scope="session")
def variables(cluster_missing):
    return usable() or cluster_missing("htcondor", "HTCondor")


@pytest.fixture
def pool(variables, monkeypatch):
    """Files made in a test can be used by the user of the pool."""
    monkeypatch.setenv("CONDOR_CONFIG", variables["CONDOR_CONFIG"])
    before = os.umask(0)
    yield Pool(variables)
    os.umask(before)


@pytest.fixture
def image(pool, cluster_missing, monkeypatch):
    """An unpacked image, which the machines of the second pool see, where Apptainer is; tests go there."""
    found = usable("sid") or cluster_missing("htcondor-sid", "HTCondor with Apptainer")
    monkeypatch.setenv("CONDOR_CONFIG", found["CONDOR_CONFIG"])
    return f"{found['DBTEST_SHARED']}/image"


@pytest.fixture
def shared(pool):
    """A directory that the machines of the pool see."""
    directory = Path(tempfile.mkdtemp(prefix="test-", dir=pool.variables["DBTEST_SHARED"]))
    directory.chmod(0o777)
    yield directory
    with contextlib.suppress(OSError):  # a job that is being ended may still write
        shutil.rmtree(directory)


@pytest.fixture
def hidden(pool):
    """A directory that the schedd sees, and the machines of the pool do not."""
    directory = Path(tempfile.mkdtemp(prefix="test-", dir=f"{pool.variables['DBTEST_SHARED']}/hidden"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def software(variables):
    """This Python and what the example needs, where the pool's machines see it; the line that sets it up."""
    place = Path(variables["DBTEST_SHARED"], "software")
    if not place.exists():
        new = Path(tempfile.mkdtemp(prefix="software-", dir=place.parent))
        new.chmod(0o755)
        base, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
        (new / "bin").mkdir()
        shutil.copy(Path(sys.executable).resolve(), new / "bin" / name)
        for link in ("python", "python3"):
            (new / "bin" / link).symlink_to(name)
        library, left_out = new / "lib" / name, ("site-packages", "dist-packages", "test", "config-*")
        unused = shutil.ignore_patterns(*left_out, "__pycache__", "ensurepip", "idlelib")
        shutil.copytree(base / "lib" / name, library, ignore=unused, symlinks=False)
        for shared_library in (base / "lib").glob("libpython*.so*"):
            shutil.copy(shared_library, new / "lib")
        for distribution in sorted(_needs({"numpy", "matplotlib"})):
            for file in metadata.files(distribution) or ():
                target = library / "site-packages" / file
                if ".." not in file.parts and target.suffix != ".pyc":
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file.locate(), target)
        new.rename(place)
    return f"export PATH={place}/bin:$PATH LD_LIBRARY_PATH={place}/lib PYTHONHOME={place}"


def _needs(names: set[str]) -> set[str]:
    """The distributions of these names, and what they need in turn."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        needs = {
            re.split(r"[^\w.-]", need)[0] for need in metadata.requires(name) or () if "extra" not in need
        }
        names |= {each for each in needs if _installed(each)} - found
    return found


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


@pytest.fixture
def open_driver(pool, shared):
    """Opens backends on the real pool; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(directory=None, runtime=None, **options):
        workspace = (directory or shared) / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(lambda: pool.backend(runtime, **options), workspace, patience_s=120, image=None)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()
