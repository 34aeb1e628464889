"""The PBS backend of docs/writing-a-batch-backend.md, on a stand-in for PBS."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from drawbar.testing.driver import Driver

PAGE = Path(__file__).parents[3] / "docs" / "writing-a-batch-backend.md"
FAKE = Path(__file__).parent / "fake_pbs.py"


@pytest.fixture(scope="session")
def pbs():
    """The module on the page."""
    text = PAGE.read_text()
    code = re.search(r"^```python\n(\"\"\"A PBS backend.*?)^```$", text, re.MULTILINE | re.DOTALL)
    module = sys.modules["drawbar_pbs"] = ModuleType("drawbar_pbs")
    blank = "\n" * text[: code.start(1)].count("\n")
    exec(compile(blank + code[1], PAGE, "exec"), vars(module))
    yield module
    del sys.modules["drawbar_pbs"]


class Fake:
    """The stand-in: its state, and what makes it misbehave."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.bin = directory / "bin"
        self.state.mkdir(parents=True)
        self.bin.mkdir()
        for name in ("qsub", "qstat", "qdel"):
            command = self.bin / name
            command.write_text(
                f'#!/bin/sh\nFAKE_PBS="{self.state}" exec "{sys.executable}" -S "{FAKE}" {name} "$@"\n'
            )
            command.chmod(0o755)

    def set(self, what: str, text: str = "") -> None:
        (self.state / what).write_text(text)

    def clear(self, what: str) -> None:
        (self.state / what).unlink()

    def calls(self, name: str) -> int:
        log = self.state / "calls"
        return log.read_text().split().count(name) if log.exists() else 0

    def wait_for_call(self, name: str, count: int) -> None:
        give_up = time.monotonic() + 60
        while self.calls(name) < count:
            assert time.monotonic() < give_up
            time.sleep(0.02)

    def busy(self) -> bool:
        ended = {path.name.removesuffix(".exit") for path in self.state.glob("*.exit")}
        return {path.name.removesuffix(".pid") for path in self.state.glob("*.pid")} != ended


@pytest.fixture
def fake(tmp_path):
    fake = Fake(tmp_path / "fake")
    yield fake
    for name in ("paused", "down", "deaf", "silent"):
        (fake.state / name).unlink(missing_ok=True)
    give_up = time.monotonic() + 60
    while fake.busy():  # no job outlives its test
        assert time.monotonic() < give_up
        time.sleep(0.05)


@pytest.fixture
def options(fake):
    return {
        "bin_directory": str(fake.bin),
        "calls_per_minute": 6000.0,
        "settle_s": 1.0,
        "grace_s": 0.3,
        "poll_s": 1.0,
        "call_timeout_s": 20.0,
    }


@pytest.fixture
def open_driver(pbs, options, tmp_path):
    drivers = []

    def open_one(**more):
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        chosen = pbs.PbsOptions.parse({**options, **more}, where="test")
        driver = Driver(lambda: pbs.PbsBackend(chosen), workspace.resolve(), patience_s=60, image=None)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture
def driver(open_driver):
    return open_driver()
