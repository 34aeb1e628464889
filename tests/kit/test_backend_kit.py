"""The conformance kit, tested with wrong backends: each fails the checks that are named for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest

FILE = Path(__file__).with_name("broken_backends.py")


def _load():
    spec = spec_from_file_location("broken_backends", FILE)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


broken_backends = _load()
WRONG = {wrong.__name__: set(checks.split()) for wrong, checks in broken_backends.WRONG.items()}
CHECKS = sorted(name for name in dir(broken_backends.Kit) if name.startswith("test_"))
SHARES = 4
"""How many runs of pytest share the work."""
ENDLESS = "NeverEnds"
"""Of this one nearly every check fails."""


class Verdicts:
    """What came of a run of pytest: by class, the checks that passed, and those that failed with why."""

    def __init__(self, directory: Path, selected: list[str], *, patience_s: float) -> None:
        self.output = ""
        self.passed: dict[str, set[str]] = defaultdict(set)
        self.failed: dict[str, dict[str, str]] = defaultdict(dict)
        self.skipped: dict[str, set[str]] = defaultdict(set)
        with ThreadPoolExecutor() as pool:  # most of the time is spent waiting for what never comes
            parts = [selected[start::SHARES] for start in range(SHARES)]
            for report, output in pool.map(
                lambda share: run_pytest(directory / str(share), parts[share], patience_s), range(SHARES)
            ):
                self.output += output
                self._read(report)

    def _read(self, report: Path) -> None:
        for case in ElementTree.parse(report).iter("testcase"):
            wrong, check = case.attrib["classname"].rpartition(".Test")[2], case.attrib["name"]
            if case.find("skipped") is not None:
                self.skipped[wrong].add(check)
            elif problems := [*case.iter("failure"), *case.iter("error")]:
                self.failed[wrong][check] = "".join(
                    f"{each.get('message')}\n{each.text}" for each in problems
                )
            else:
                self.passed[wrong].add(check)


def run_pytest(directory: Path, selected: list[str], patience_s: float) -> tuple[Path, str]:
    directory.mkdir()
    report = directory / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"--basetemp={directory / 'work'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *selected],
        cwd=FILE.parents[2],
        env={**os.environ, "KIT_PATIENCE_S": str(patience_s)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return report, done.stdout


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A right backend in every check, and each wrong one in the checks that it must fail."""
    selected = [
        f"{FILE}::Test{wrong}::{check}" for wrong, checks in WRONG.items() for check in sorted(checks)
    ]
    return Verdicts(tmp_path_factory.mktemp("named"), [f"{FILE}::TestRight", *selected], patience_s=1)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Each wrong backend in every check."""
    selected = [f"{FILE}::Test{wrong}" for wrong in WRONG if wrong != ENDLESS]
    return Verdicts(tmp_path_factory.mktemp("complete"), selected, patience_s=10)


def test_a_right_backend_passes_every_check(named):
    assert named.failed["Right"] == {}, named.output
    assert named.passed["Right"] | named.skipped["Right"] == set(CHECKS)
    assert named.skipped["Right"] == {"test_the_memory_limit_is_enforced"}


@pytest.mark.parametrize("wrong", sorted(WRONG))
def test_a_wrong_backend_fails_the_checks_named_for_it(named, wrong):
    assert set(named.failed[wrong]) == WRONG[wrong], named.output
    said = ("the contract says: ", "IndexError", "RuntimeError")  # the kit's word, or the backend's own
    assert all(any(each in text for each in said) for text in named.failed[wrong].values())


@pytest.mark.slow
@pytest.mark.parametrize("wrong", sorted(set(WRONG) - {ENDLESS}))
def test_a_wrong_backend_fails_no_other_check(complete, wrong):
    assert set(complete.failed[wrong]) == WRONG[wrong], complete.output


def test_every_check_is_failed_by_some_wrong_backend():
    provoked = set().union(*WRONG.values())
    assert set(CHECKS) - provoked == {"test_the_memory_limit_is_enforced"}
