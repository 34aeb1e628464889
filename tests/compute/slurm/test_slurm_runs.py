"""Analyses on a real Slurm, through the command line."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slurm


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
    settings.write_text(settings.read_text().replace("long", "lnog"))
    done = drawbar("backends", "check", "slurmcern")
    assert done.returncode == 3
    assert "no partition lnog" in done.stderr


def test_the_check_says_that_the_nodes_do_not_see_a_directory(drawbar, slurm, tmp_path):
    settings = tmp_path / "drawbar.toml"
    settings.write_text(f'{settings.read_text()}check_directory = "{slurm.private}"\nsettle_s = 2\n')
    done = drawbar("backends", "check", "slurmcern")
    assert done.returncode == 3
    assert "a job did not begin" in done.stderr
    assert f"do the nodes see {slurm.private}?" in done.stderr
    assert list(slurm.private.iterdir()) == []
