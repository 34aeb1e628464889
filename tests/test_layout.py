"""The project's shape: what CONTRIBUTING.md promises about folders, packaging and files."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = sorted(path for kind in ("plugins", "compute") for path in (ROOT / kind).iterdir() if path.is_dir())
PACKAGES = ["core/drawbar", *(f"{path.relative_to(ROOT)}/drawbar_{path.name}" for path in PLUGINS)]


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_wheel_and_the_type_checker_list_every_package() -> None:
    assert sorted(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(PACKAGES)
    assert sorted(PROJECT["tool"]["mypy"]["files"]) == sorted(PACKAGES)


def test_every_plugin_folder_has_its_entry_point() -> None:
    expected = {path.name: f"drawbar_{path.name}" for path in PLUGINS}
    assert PROJECT["project"]["entry-points"]["drawbar"] == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str) -> None:
    assert (ROOT / package / "__init__.py").is_file()
    assert (ROOT / package / "py.typed").is_file()


def test_no_module_lies_outside_its_package() -> None:
    modules = tracked("core/*.py", "plugins/*.py", "compute/*.py")
    stray = [path for path in modules if not any(path.is_relative_to(ROOT / package) for package in PACKAGES)]
    assert stray == []


def imported(module: Path) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def declared(*extras: str) -> set[str]:
    """The distributions that an installation with these extras asks for."""
    project = PROJECT["project"]
    wanted = project["dependencies"] + [
        each for name in extras for each in project["optional-dependencies"][name]
    ]
    return {re.split(r"[^\w.-]", each)[0].lower() for each in wanted}


def test_what_is_imported_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    distributions = packages_distributions()
    undeclared = {}
    for package in PACKAGES:
        own = package.rpartition("drawbar_")[2]
        for module in tracked(f"{package}/*.py"):
            testing = "core/drawbar/testing" in module.as_posix()
            known = declared(*(["testing"] if testing else []), *([own] if own in extras else []))
            for name in imported(module) - sys.stdlib_module_names:
                candidates = {each.lower() for each in distributions.get(name, [name])}
                if not name.startswith("drawbar") and not candidates & known:
                    undeclared[name] = str(module.relative_to(ROOT))
    assert undeclared == {}


def test_test_files_have_names_of_their_own_and_no_packages() -> None:
    names = [path.name for path in tracked("tests/*.py") if path.name != "conftest.py"]
    assert "__init__.py" not in names
    assert sorted(names) == sorted(set(names))


def test_a_module_has_at_most_500_lines() -> None:
    modules = [path for path in tracked("*.py") if not path.is_relative_to(ROOT / "tests")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_no_file_names_a_path_of_a_machine_or_a_package_registry() -> None:
    local = re.compile(
        r"(?<![\w.-])/(?:work|farm|root)/|https?://[\w.-]*(?:debian|pypi|pythonhosted|npmjs)", re.IGNORECASE
    )
    found = []
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if local.search(line)]
    assert found == []


def test_the_changelog_has_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["project"]["version"]
