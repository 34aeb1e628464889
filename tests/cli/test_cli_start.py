"""What a command costs before it does anything, and what is not loaded for it."""

import os
import statistics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HEAVY = ("rich", "jsonschema", "yaml", "pluggy", "gherkin", "sqlite3", "drawbar.plugins")
ENGINES = ("cwltool", "snakemake", "yadage", "docker")


def cpu_s(command, environment):
    """CPU seconds of a command, its children included."""
    before = os.times()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return sum(after[2:4]) - sum(before[2:4])


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_start_up_costs_at_most_twice_an_import_of_click(cli, option):
    """The median over pairs, each measured in one breath, so that a busy machine weighs on both."""
    program = Path(sysconfig.get_path("scripts")) / "drawbar"
    floor = [sys.executable, "-c", "import click"]
    for rounds in (9, 25):
        ratios = [
            cpu_s([program, option], cli.environment) / max(cpu_s(floor, cli.environment), 0.001)
            for _ in range(rounds)
        ]
        if statistics.median(ratios) <= 2:
            return
    pytest.fail(f"{option} costs {statistics.median(ratios):.2f} times an import of click")


def loaded(cli, *arguments):
    """The modules that a command loads."""
    code = (
        "import sys\n"
        "try:\n"
        "    from drawbar.cli import main\n"
        f"    main({list(arguments)!r})\n"
        "finally:\n"
        "    sys.stderr.write('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli.environment, capture_output=True, text=True, check=False
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], []])
def test_help_and_version_load_nothing_heavy(cli, arguments):
    modules = loaded(cli, *arguments)
    assert "click" in modules
    assert modules.isdisjoint({*HEAVY, *ENGINES})


@pytest.mark.parametrize("arguments", [["list"], ["run", "nothing"], ["engines"], ["config"]])
def test_no_command_loads_the_library_of_an_engine(cli, arguments):
    assert loaded(cli, *arguments).isdisjoint({*ENGINES, "rich"})


def test_importing_drawbar_loads_nothing(cli):
    code = "import sys, drawbar; sys.exit('drawbar.api' in sys.modules or 'click' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
