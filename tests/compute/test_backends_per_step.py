"""One analysis whose steps run on Slurm, on HTCondor and here: REANA's `compute_backend`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.htcondor]

CLUSTERS = Path(__file__).parents[1] / "clusters"
ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - name: generate
        environment: docker.io/library/python:3.12
        compute_backend: slurmcern
        slurm_partition: debug
        slurm_time: "5"
        commands: ["echo slurm $$SLURM_JOB_PARTITION > first.txt"]
      - name: simulate
        environment: docker.io/library/python:3.12
        compute_backend: htcondorcern
        htcondor_max_runtime: espresso
        commands: ["(cat first.txt; echo htcondor $${_CONDOR_SLOT%%_*}) > second.txt"]
      - name: plot
        environment: docker.io/library/python:3.12
        compute_backend: local
        commands: ["(cat second.txt; echo here $$SLURM_JOB_ID $$_CONDOR_SLOT) > third.txt"]
outputs:
  files: [third.txt]
"""
AS_USER = (
    *("setpriv", "--reuid=20001", "--regid=20001", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # wherever Python and drawbar are
)
"""What runs a command as the user whom the HTCondor pool lets submit."""

SETTINGS = """
[backends.slurmcern]
kind = "slurm"
[backends.htcondorcern]
kind = "htcondor"
"""


@pytest.fixture
def clusters(cluster_missing):
    """The variables of both."""
    variables = {}
    for name, title, command in (
        ("slurm", "Slurm", "sinfo"),
        ("htcondor", "HTCondor", "{DBTEST_CONDOR_BIN}/condor_q"),
    ):
        try:
            shown = subprocess.run(
                [CLUSTERS / name, "env"], capture_output=True, text=True, check=True, timeout=30
            ).stdout
            variables |= dict(line.split("=", 1) for line in shown.splitlines())
            subprocess.run(
                [command.format(**variables)],
                env={**os.environ, **variables},
                capture_output=True,
                check=True,
                timeout=30,
            )
        except (OSError, KeyError, subprocess.SubprocessError):
            cluster_missing(name, title)
    return variables


@pytest.fixture
def shared(clusters):
    """A directory that both see, and in which the user of the pool may write."""
    directory = Path(tempfile.mkdtemp(prefix="test-", dir=clusters["DBTEST_SHARED"]))
    directory.chmod(0o777)
    yield directory
    with contextlib.suppress(OSError):
        shutil.rmtree(directory)


def test_one_analysis_on_two_clusters_and_here(clusters, shared):
    (shared / "analysis").mkdir()
    (shared / "analysis" / "reana.yaml").write_text(ANALYSIS)
    (shared / "drawbar.toml").write_text(SETTINGS)
    (shared / "analysis").chmod(0o777)
    done = subprocess.run(
        [
            *(*AS_USER, sys.executable, "-m", "drawbar.cli", "run", shared / "analysis"),
            *("--no-container", "--json", "--outputs", shared / "out"),
        ],
        env={
            **os.environ,
            **clusters,
            "DRAWBAR_HOME": str(shared / "home"),
            "DRAWBAR_SYSTEM_CONFIG": str(shared / "drawbar.toml"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    jobs = {job["step"]: job for job in json.loads(done.stdout)["jobs"]}
    assert {step: job["backend"] for step, job in jobs.items()} == {
        "generate": "slurmcern",
        "simulate": "htcondorcern",
        "plot": "local",
    }
    assert (shared / "out" / "third.txt").read_text() == "slurm debug\nhtcondor slot1\nhere\n"
