"""The Apptainer and the images of tests/clusters/apptainer, and backends that use them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.runtime import Runtime
from drawbar.testing.driver import Driver
from drawbar_local.backend import LocalBackend
from drawbar_slurm.backend import SlurmBackend

CLUSTERS = Path(__file__).parents[2] / "clusters"
SCRIPT = CLUSTERS / "apptainer"
SLURM_OPTIONS = {"calls_per_minute": 600, "settle_s": 5.0, "grace_s": 1.0, "poll_s": 2.0}
LIBRARIES = (
    *("numpy", "numpy.libs", "matplotlib", "mpl_toolkits", "contourpy", "cycler", "dateutil", "fontTools"),
    *("kiwisolver", "packaging", "PIL", "pillow.libs", "pyparsing", "six.py"),
)


@pytest.fixture(scope="session")
def site(cluster_missing):
    """The variables of `tests/clusters/apptainer env`."""
    try:
        subprocess.run([SCRIPT, "status"], capture_output=True, check=True, timeout=60)
        shown = subprocess.run([SCRIPT, "env"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        cluster_missing("apptainer", "Apptainer")
    return dict(re.findall(r"^export (\w+)=(.*)$", shown, re.MULTILINE))


@pytest.fixture
def apptainer(site, monkeypatch):
    """Puts the program on PATH; its path."""
    directory = site["PATH"].partition(":")[0]
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return f"{directory}/apptainer"


@pytest.fixture(scope="session")
def images(site):
    """The directory of images: busybox and python, each as a sandbox and as a .sif file."""
    return Path(site["APPTAINER_TEST_IMAGES"])


@pytest.fixture
def open_local(apptainer, tmp_path):
    """Opens local backends that run jobs in images; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(directory=None, *, image, shared=(), **options):
        workspace = directory or tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)

        def backend():
            made = LocalBackend(LocalBackend.Options(**{"grace_s": 0.5, **options}))
            made.runtime = Runtime(program=apptainer, shared=shared, images=str(tmp_path / "images"))
            return made

        driver = Driver(backend, workspace.resolve(), patience_s=60, image=str(image))
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture
def slurm(cluster_missing, monkeypatch):
    try:
        shown = subprocess.run(
            [CLUSTERS / "slurm", "env"], capture_output=True, text=True, check=True, timeout=10
        ).stdout
        configuration = re.sub(r"^(export )?SLURM_CONF=", "", shown.strip())
        monkeypatch.setenv("SLURM_CONF", configuration)
        subprocess.run(["sinfo"], capture_output=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        cluster_missing("slurm", "Slurm")


@pytest.fixture
def make_slurm(slurm, tmp_path):
    """Makes Slurm backends that run jobs in images with a program."""

    def make(program, **options):
        made = SlurmBackend(SlurmBackend.Options.parse({**SLURM_OPTIONS, **options}, where="test"))
        made.runtime = Runtime(program=program, images=str(tmp_path / "images"))
        return made

    return make


@pytest.fixture
def open_slurm(make_slurm, apptainer, tmp_path):
    """Opens such backends; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(image, program=apptainer, **options):
        (tmp_path / "workspace").mkdir(exist_ok=True)
        backend = lambda: make_slurm(program, **options)  # noqa: E731
        driver = Driver(backend, tmp_path / "workspace", patience_s=120, image=str(image))
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture(scope="session")
def scientific_python(images, tmp_path_factory):
    """An unpacked image: Debian's Python, with the numpy and matplotlib that these tests run with."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the libraries of this Python are not for the image's Python 3.11")
    image = tmp_path_factory.mktemp("images") / "scientific-python"
    subprocess.run(["cp", "-a", "--link", images / "python", image], check=True)
    target = image / "usr/local/lib/python3.11/dist-packages"
    for name in LIBRARIES:
        for place in map(Path, sys.path):
            if place.name == "site-packages" and (place / name).exists():
                ignore = shutil.ignore_patterns("__pycache__", "tests")
                copy = shutil.copytree if (place / name).is_dir() else shutil.copy
                copy(place / name, target / name, **({"ignore": ignore} if copy is shutil.copytree else {}))
                break
    return image
