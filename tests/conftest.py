"""What every test relies on: no setting, plugin or home of the person who runs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

# A caller in the background, or under nohup, leaves these ignored, and all processes would inherit that.
for _signal in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, signal.default_int_handler if _signal is signal.SIGINT else signal.SIG_DFL)

settings.register_profile("drawbar", deadline=None)  # a busy machine is no failure
settings.load_profile("drawbar")


@pytest.fixture(scope="session")
def cluster_missing() -> Callable[[str, str], NoReturn]:
    """For the fixture of a cluster that is not there: `cluster_missing("slurm", "Slurm")`.

    The test is skipped, or fails if REQUIRE_CLUSTER, names separated by commas, has that name.
    """
    required = os.environ.get("REQUIRE_CLUSTER", "").split(",")

    def missing(name: str, what: str) -> NoReturn:
        say = pytest.fail if name in required else pytest.skip
        say(f"needs {what}: run tests/clusters/{name} start, as root")

    return missing


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DRAWBAR_")]:
        monkeypatch.delenv(name)
    nothing = tmp_path_factory.getbasetemp() / "no-settings"
    monkeypatch.setenv("DRAWBAR_SYSTEM_CONFIG", str(_empty(nothing / "system.toml")))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(nothing))


def _empty(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path
