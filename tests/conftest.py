"""What every test relies on: no setting, plugin or home of the person who runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("drawbar", deadline=None)  # a busy machine is no failure
settings.load_profile("drawbar")


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
