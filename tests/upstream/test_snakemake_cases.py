"""Snakemake's own test cases, through `drawbar-snakemake`; plain snakemake's verdicts are recorded."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "snakemake_cases", Path(__file__).parent / "snakemake_cases.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
snakemake_cases = importlib.util.module_from_spec(_SPEC)
sys.modules["snakemake_cases"] = snakemake_cases
_SPEC.loader.exec_module(snakemake_cases)

RECORD = snakemake_cases.plain_record()
CLUSTER = "needs a cluster"
EXPECTED = [
    name
    for name, why in RECORD["verdicts"].items()
    if why in ("", CLUSTER) and name not in snakemake_cases.EXCEPTIONS
]
"""What plain snakemake passes, and what it has no place for, but for the exceptions with their reasons."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def tree():
    """Snakemake's sources, downloaded once."""
    return snakemake_cases.sources()


def test_the_selection_is_whole(tree):
    known = snakemake_cases.cases(tree)
    if version("snakemake") == RECORD["snakemake"]:
        assert set(known) == set(RECORD["verdicts"])
    passed = [name for name, why in RECORD["verdicts"].items() if not why]
    assert len(passed) >= 225


@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_goes_as_with_plain_snakemake(tree, name):
    case = snakemake_cases.cases(tree).get(name)
    if case is None and version("snakemake") != RECORD["snakemake"]:
        pytest.skip("this version of Snakemake does not have it")
    verdict = snakemake_cases.judge(case, tree, snakemake_cases.DRAWBAR)
    if not verdict.passed and version("snakemake") != RECORD["snakemake"] and not case.cluster:
        plain = snakemake_cases.judge(case, tree, snakemake_cases.PLAIN)
        assert not plain.passed, f"{verdict.why}\n{verdict.output}"
        return
    assert verdict.passed, f"{verdict.why}\n{verdict.output}"
