from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from drawbar.testing.driver import Driver
from drawbar_local.backend import LocalBackend

sys.path.insert(0, str(Path(__file__).parent))  # for local_driver


@pytest.fixture
def runtime():
    """A short directory for sockets, empty again when all supervisors have ended."""
    path = Path(tempfile.mkdtemp(prefix="db-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def open_driver(tmp_path, runtime):
    """Opens backends; each is closed, and its jobs ended, at the end of the test."""
    drivers, before = [], children()

    def open_one(*, watcher="auto", directory=None, **options):
        chosen = type("Chosen", (LocalBackend,), {"watcher": watcher})
        options = {"runtime_directory": str(runtime), "grace_s": 0.5, **options}
        workspace = directory or tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(
            lambda: chosen(chosen.Options(**options)), workspace.resolve(), patience_s=30, image=None
        )
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()
    assert not children() - before  # neither supervisors nor zombies


def children() -> set[int]:
    """The processes that this one started and has not waited for."""
    pids = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that just ended
            pids.update(map(int, (task / "children").read_text().split()))
    return pids


@pytest.fixture
def driver(open_driver):
    return open_driver()
