"""Analyses on a real Slurm, through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slurm

ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - name: first
        environment: docker.io/library/python:3.12
        compute_backend: slurmcern
        slurm_partition: debug
        slurm_time: "5"
        commands: ["echo $$SLURM_JOB_PARTITION > first.txt"]
      - name: second
        environment: docker.io/library/python:3.12
        compute_backend: local
        commands: ["cat first.txt > second.txt; echo here $$SLURM_JOB_ID >> second.txt"]
outputs:
  files: [second.txt]
"""
SETTINGS = """
[backends.slurmcern]
kind = "slurm"
partition = "long"
poll_s = 2
"""


@pytest.fixture
def drawbar(slurm, tmp_path):
    (tmp_path / "drawbar.toml").write_text(SETTINGS)
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "reana.yaml").write_text(ANALYSIS)
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF")},
        "DRAWBAR_HOME": str(tmp_path / "home"),
        "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "drawbar.toml"),
        "XDG_CONFIG_HOME": str(tmp_path / "nothing"),
    }

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=tmp_path / "analysis",
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_steps_of_one_analysis_on_different_backends(drawbar):
    done = drawbar("run", "--no-container", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)
    jobs = {job["step"]: job for job in run["jobs"]}
    assert (jobs["first"]["backend"], jobs["second"]["backend"]) == ("slurmcern", "local")
    assert jobs["first"]["native_id"].isdigit()
    text = drawbar("outputs", run["run"], "--outputs", "out")
    assert text.returncode == 0


def test_all_four_engines(slurm, tmp_path, four_engines):
    settings = '[backends.slurm]\npartition = "debug"\npoll_s = 2\n'
    runs = four_engines(tmp_path, settings, "--backend", "slurm", "--no-container")
    jobs = [job for run in runs.values() for job in run["jobs"]]
    assert {job["backend"] for job in jobs} == {"slurm"}
    assert len({job["native_id"] for job in jobs}) == len(jobs) == 16


def test_the_command_line_checks_a_cluster(drawbar):
    done = drawbar("backends", "check", "slurmcern")
    assert (done.returncode, done.stdout) == (0, "slurmcern: can be used\n")


def test_the_check_names_a_partition_that_is_not_there(drawbar, tmp_path):
    settings = tmp_path / "drawbar.toml"
    settings.write_text(SETTINGS.replace("long", "lnog"))
    done = drawbar("backends", "check", "slurmcern")
    assert done.returncode == 3
    assert "no partition lnog" in done.stderr


def test_the_check_says_that_the_nodes_do_not_see_a_directory(drawbar, slurm, tmp_path):
    settings = tmp_path / "drawbar.toml"
    settings.write_text(f'{SETTINGS}check_directory = "{slurm.private}"\nsettle_s = 2\n')
    done = drawbar("backends", "check", "slurmcern")
    assert done.returncode == 3
    assert "a job did not begin" in done.stderr
    assert f"do the nodes see {slurm.private}?" in done.stderr
    assert list(slurm.private.iterdir()) == []
