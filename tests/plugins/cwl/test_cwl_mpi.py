"""cwltool's MPIRequirement: as many processes as it asks for, or a refusal."""

import json
import os
import subprocess
import sys

import pytest
from drawbar.engine import Placement
from drawbar.errors import Unsupported

MPI = "http://commonwl.org/cwltool#MPIRequirement"
LAUNCHER = """#!/bin/sh
# mpirun -n COUNT COMMAND...
count=$2; shift 2
while [ "$count" -gt 0 ]; do "$@"; count=$((count - 1)); done
"""


def document(processes, where="requirements", **others):
    return {
        "class": "CommandLineTool",
        "requirements": {"InlineJavascriptRequirement": {}},
        "inputs": {"n": "int"},
        "outputs": {"out": {"type": "stdout"}},
        "baseCommand": ["echo", "here"],
        **others,
        where: {
            "InlineJavascriptRequirement": {},
            MPI: {"processes": processes},
            **others.get(where, {}),
        },
    }


@pytest.fixture
def mpirun(tmp_path, monkeypatch):
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "mpirun").write_text(LAUNCHER)
    (directory / "mpirun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory


@pytest.mark.parametrize("processes", [3, "$(inputs.n)"])
def test_so_many_processes_are_started(execute, mpirun, processes):
    done = execute(document(processes), {"n": 3}, options={"extensions": True})
    assert done.text("out") == "here\n" * 3
    (spec,) = done.jobs.specs.values()
    assert spec.argv == ("mpirun", "-n", "3", "echo", "here")
    assert spec.hints["memory"]["tasks"] == 3


def test_the_number_of_processes_is_part_of_the_key(execute, mpirun):
    first = execute(document("$(inputs.n)"), {"n": 3}, options={"extensions": True})
    other = execute(document("$(inputs.n - 1)"), {"n": 3}, options={"extensions": True}, after=first.jobs)
    assert other.text("out") == "here\n" * 2


def test_the_launcher_can_be_chosen(execute, mpirun):
    (mpirun / "mpirun").rename(mpirun / "start these")
    options = {"extensions": True, "mpi": "'start these' -c"}
    assert execute(document(2), {"n": 2}, options=options).text("out") == "here\n" * 2


def test_an_image_that_is_a_hint_is_left_out_and_a_required_one_refused(execute, mpirun):
    docker = {"DockerRequirement": {"dockerPull": "debian:stable"}}
    options = {"extensions": True}
    done = execute(document(2, hints=docker), {"n": 2}, options=options, container=True)
    (spec,) = done.jobs.specs.values()
    assert spec.image is None
    with pytest.raises(Unsupported, match="MPI"):
        execute(document(2, requirements=docker), {"n": 2}, options=options, container=True)


def test_a_hint_is_ignored_where_it_cannot_be_had(execute, monkeypatch):
    monkeypatch.setattr("drawbar.testing.memory.MemoryJobs.place", _knows_no_hints)
    options = {"extensions": True, "mpi": "no-such-launcher -n"}
    assert execute(document(3, "hints"), {"n": 3}, options=options).text("out") == "here\n"


def _knows_no_hints(self, **question):
    return Placement(backend="memory", resources=question["resources"])


def test_a_backend_without_mpi_refuses_before_the_first_job(tmp_path):
    """The local backend knows nothing of tasks, and there is no launcher."""
    first = {"run": {"class": "CommandLineTool", "baseCommand": ["touch", str(tmp_path / "ran")]}}
    flow = {
        "cwlVersion": "v1.2",
        "class": "Workflow",
        "requirements": {"SubworkflowFeatureRequirement": {}},
        "inputs": {"n": "int"},
        "outputs": {},
        "steps": {
            "first": {**first, "in": {}, "out": []},
            "many": {"run": document(2), "in": {"n": "n"}, "out": ["out"]},
        },
    }
    first["run"].update(inputs={}, outputs={})
    (tmp_path / "flow.cwl").write_text(json.dumps(flow))
    job = tmp_path / "job.json"
    job.write_text('{"n": 2}')
    command = ["drawbar_cwl.runner", "--enable-ext", "--quiet", "--outdir", str(tmp_path / "out")]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *command,
            "--mpi",
            "no-such-launcher -n",
            str(tmp_path / "flow.cwl"),
            str(job),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 33, done.stderr
    assert "many" in done.stderr
    assert "no-such-launcher" in done.stderr
    assert not (tmp_path / "ran").exists()
