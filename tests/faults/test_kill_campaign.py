"""Shares of the kill campaign (`campaign.py`); all of it is recorded in docs/results/faults.md."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strikes by way of /proc and pidfd")


def campaign(instants: int, seed: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "tests.faults.campaign"),
            *("--instants", str(instants), "--seed", seed, *more),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def check_clean(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* jobs lost: 0\n* accepted jobs repeated: 0\n" in done.stdout


def test_nothing_is_lost_or_repeated_when_processes_are_killed():
    check_clean(campaign(10, "fast"))


@pytest.mark.slow
def test_nothing_is_lost_or_repeated_at_instants_that_change_daily():
    check_clean(campaign(60, date.today().isoformat()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "workload", "problem"),
    [
        ("forget", "chain", "PROBLEM repeated: "),
        ("abandon", "scatter", "PROBLEM "),  # ran twice at once, or was done again
        ("neglect", "chain", "PROBLEM "),  # a wrong workspace, or a step that fails in one
    ],
)
def test_the_judge_notices_a_broken_drawbar(sabotage: str, workload: str, problem: str):
    done = campaign(60, "sabotage", "--sabotage", sabotage, "--workload", workload)
    assert done.returncode == 1
    assert problem in done.stdout, done.stdout + done.stderr
