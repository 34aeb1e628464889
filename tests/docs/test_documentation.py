"""What the documentation shows is what happens: its links lead somewhere, its marked commands are run.

A `console` block that follows a line `<!-- run -->` is executed: on the page of an example in a copy of the
example, elsewhere in a directory that holds a copy of `examples`. Lines that begin with `$ ` are commands
(`\\` at the end of a line continues it), the lines after one are its standard output; `...` is any text.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.plugins import load_plugins
from drawbar.settings import load_settings

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *EXAMPLES.rglob("*.md")])
BLOCK = re.compile(r"^<!-- run -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- run -->$", re.MULTILINE)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def copy_for(page: Path, directory: Path) -> Path:
    """A directory in which the commands of a page make sense."""
    source = page.parent if page.is_relative_to(EXAMPLES) else EXAMPLES
    target = directory / "copy"
    ignored = shutil.ignore_patterns(".*", "results", "__pycache__")
    shutil.copytree(source, target / "examples" if source == EXAMPLES else target, ignore=ignored)
    return target


MARKED = [
    pytest.param(page, block[1], id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.finditer(page.read_text()), 1)
]


@pytest.mark.parametrize(("page", "block"), MARKED)
def test_a_marked_block_does_what_it_shows(page: Path, block: str, tmp_path: Path) -> None:
    directory = copy_for(page, tmp_path)
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(tmp_path),
        "DRAWBAR_HOME": str(tmp_path / "home"),
        "LANG": "C.UTF-8",
    }
    commands = COMMAND.findall(block)
    assert commands
    for command, shown in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        report = f"$ {command}\nshown:\n{shown}\nwritten:\n{done.stdout}\nerrors:\n{done.stderr}"
        assert done.returncode == 0, report
        assert doctest.OutputChecker().check_output(shown, done.stdout, doctest.ELLIPSIS), report


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_mark_stands_right_before_a_console_block(page: Path) -> None:
    text = page.read_text()
    assert len(MARK.findall(text)) == len(BLOCK.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SETTINGS_SHOWN = [
    pytest.param(block[1], id=f"{name_of(page)}-{number}")
    for page in PAGES
    if "pyproject" not in page.read_text()
    for number, block in enumerate(TOML.finditer(page.read_text()), 1)
]


@pytest.mark.parametrize("text", SETTINGS_SHOWN)
def test_settings_that_are_shown_can_be_set(text: str, tmp_path: Path) -> None:
    (tmp_path / "drawbar.toml").write_text(text)
    settings = load_settings(
        start=tmp_path / "analysis",
        environ={"DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "drawbar.toml"), "HOME": str(tmp_path)},
    )
    assert not settings.warnings
    plugins = load_plugins({})
    for name in settings.backends:
        if settings.backend_table(name)[0] in plugins.backends:
            settings.create_backend(name, plugins)
