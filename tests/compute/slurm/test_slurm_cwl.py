"""A CWL tool with MPIRequirement on a real Slurm, which gives its processes their places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm

TOOL = {
    "cwlVersion": "v1.2",
    "class": "CommandLineTool",
    "requirements": {"http://commonwl.org/cwltool#MPIRequirement": {"processes": "$(inputs.n)"}},
    "hints": {"reana": {"slurm_nodes": 2}},
    "inputs": {"n": "int"},
    "outputs": {"out": {"type": "stdout"}},
    "baseCommand": ["sh", "-c", "echo $SLURM_PROCID of $SLURM_NTASKS on $SLURM_JOB_NUM_NODES nodes"],
}


def test_every_process_of_an_mpi_tool_has_a_task(slurm, tmp_path):
    (tmp_path / "tool.cwl").write_text(json.dumps({**TOOL, "$namespaces": {"reana": "https://reana.io#"}}))
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF")},
        "XDG_CONFIG_HOME": str(tmp_path / "nothing"),
    }
    options = ("--backend", "slurm", "--enable-ext", "--mpi", "srun -n", "--quiet")
    (tmp_path / "job.json").write_text('{"n": 3}')
    done = subprocess.run(
        [sys.executable, "-m", "drawbar_cwl.runner", *options, "tool.cwl", "job.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = Path(json.loads(done.stdout)["out"]["path"]).read_text()
    assert sorted(said.splitlines()) == [f"{number} of 3 on 2 nodes" for number in range(3)]
