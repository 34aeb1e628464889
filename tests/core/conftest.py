from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

HELPERS = Path(__file__).parent / "helpers"
sys.path.insert(0, str(HELPERS))


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory):
    """A Python with drawbar and an engine of a third party, installed there and nowhere else."""
    place = tmp_path_factory.mktemp("interpreter")
    venv.create(place, symlinks=True)
    packages = Path(
        sysconfig.get_path("purelib", scheme="venv", vars={"base": str(place), "platbase": str(place)})
    )
    own = sysconfig.get_path("purelib")
    (packages / "base.pth").write_text(f"import site; site.addsitedir({own!r})\n")
    shutil.copy(HELPERS / "scripted_engine.py", packages)
    info = packages / "drawbar_scripted-0.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: drawbar-scripted\nVersion: 0.5\n")
    (info / "entry_points.txt").write_text("[drawbar]\nscripted = scripted_engine\n")
    (info / "RECORD").write_text("scripted_engine.py,,\n")
    return place / "bin" / "python"


@pytest.fixture
def world():
    from scripted_backend import World

    world = World()
    yield world
    world.close()


@pytest.fixture(scope="session")
def warm(interpreter, tmp_path_factory):
    """A process that forks engine processes, since most tests need many and few need new ones."""
    from bench import Bench
    from drawbar.enginehost import WarmParent
    from scripted_backend import World

    world = World()
    bench = Bench(tmp_path_factory.mktemp("warm"), interpreter, world)
    parent = WarmParent("scripted", bench.settings)
    world.close()
    yield parent
    parent.close()


@pytest.fixture
def bench(tmp_path, interpreter, world, warm):
    from bench import Bench

    bench = Bench(tmp_path, interpreter, world, warm)
    yield bench
    bench.close()
