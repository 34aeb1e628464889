"""Jobs in images on a real Slurm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.model import Reason
from drawbar.testing import BackendContract

pytestmark = [pytest.mark.apptainer, pytest.mark.slurm]

PUBLISHED = "quay.io/jupyter/scipy-notebook:2025-03-14"


class TestSlurmInImages(BackendContract):
    patience_s = 120
    many = 20

    @pytest.fixture
    def backend(self, make_slurm, apptainer, images):
        self.image = str(images / "busybox.sif")
        return lambda: make_slurm(apptainer)


def test_a_job_in_an_image_has_its_own_tmp_and_only_its_own_variables(open_slurm, images):
    driver = open_slurm(images / "python.sif", prolog=["export SECRET=1 CUDA_VISIBLE_DEVICES=3"])
    attempt = driver.shell("echo x > /tmp/drawbar-was-here; env; cat /etc/os-release")
    driver.run(attempt)
    assert driver.end(attempt).ok
    shown = Path(attempt.record, "stdout").read_text()
    assert "CUDA_VISIBLE_DEVICES=3" in shown
    assert "SECRET" not in shown
    assert "SLURM_" not in shown
    assert "bookworm" in shown
    assert not Path("/tmp/drawbar-was-here").exists()


@pytest.mark.parametrize(
    ("program", "image", "words"),
    [(None, "/nothing/here.sif", "no such file"), ("no-such-program", "busybox.sif", "no-such-program")],
)
def test_what_is_missing_on_a_node_is_told(open_slurm, apptainer, images, program, image, words):
    driver = open_slurm(images / image, program=program or apptainer)
    attempt = driver.shell("true")
    driver.run(attempt)
    result = driver.end(attempt)
    assert (result.reason, result.exit_code) == (Reason.IMAGE, None)
    assert words in result.message


def test_check_runs_the_program_on_a_node(open_slurm, apptainer, images, tmp_path):
    options = {"check_directory": str(tmp_path)}
    assert not open_slurm(images / "busybox", **options).backend.check()
    (problem,) = open_slurm(images / "busybox", program="no-such-program", **options).backend.check()
    assert "'no-such-program', which runs images, does not run on" in problem.message
    assert "apptainer.program" in (problem.hint or "")


@pytest.mark.slow
def test_the_example_in_four_engines(slurm, apptainer, scientific_python, four_engines, tmp_path):
    settings = (
        'containers = "apptainer"\nbackend = "slurm"\n[backends.slurm]\npoll_s = 2\n'
        f'[images.aliases]\n"{PUBLISHED}" = "{scientific_python}"\n'
    )
    runs = four_engines(tmp_path, settings)
    for run in runs.values():
        assert {job["backend"] for job in run["jobs"]} == {"slurm"}
    assert list((tmp_path / "home").glob("runs/*/attempts/*/inside"))


def test_drawbar_backends_check_says_it(slurm, tmp_path):
    (tmp_path / "site.toml").write_text(
        'containers = "apptainer"\n[apptainer]\nprogram = "no-such-program"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "drawbar.cli", "backends", "check", "slurm", "--json"],
        env={
            **os.environ,
            "DRAWBAR_HOME": str(tmp_path / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "site.toml"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode != 0
    assert "no-such-program" in done.stdout + done.stderr
    json.loads(done.stdout)
