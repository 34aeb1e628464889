"""What is installed for users: the wheel holds every file of every package, and nothing else."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_every_package_and_no_other(tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [Path(name) for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *map(str, packages)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(name) for name in listing.stdout.split("\0") if name]
    expected = {
        str(file.relative_to(package.parent))
        for file in files
        for package in packages
        if file.is_relative_to(package)
    }
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert expected <= names
    assert {name.split("/")[0] for name in names} == {package.name for package in packages}
