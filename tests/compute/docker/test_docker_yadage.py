"""Yadage workflows in containers, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "upstream"))
sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "yadage"))

from yadage_shapes import (
    COMBINED,
    JOBS,
    LEARNING_IMAGE,
    LIMIT,
    PHYSICS_IMAGE,
    PLOT,
    RECAST_IMAGES,
    encapsulated,
    madminer,
    recast,
)
from yadage_specs import (
    IN_CONTAINERS,
    Case,
    options,
    ordered,
    prepare,
    published,
    specifications,
    stock,
)

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch, host):
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", host)


@pytest.fixture(scope="module")
def stand_ins(host):
    """An image that stands in for each of the published ones, under their names."""
    import docker

    names = {":".join(image): "busybox:latest" for image in (PHYSICS_IMAGE, LEARNING_IMAGE)}
    names |= {":".join(image): "bash:4.4" for image in RECAST_IMAGES}
    client = docker.APIClient(base_url=host, version="auto", timeout=300)
    made = [name for name in names if not client.images(name)]
    for name in made:
        assert client.tag(names[name], *name.split(":"))
    yield
    for name in made:
        client.remove_image(name)
    client.close()


def write(directory: Path, analysis: dict) -> Path:
    (directory / "reana.yaml").write_text(yaml.safe_dump({"version": "0.9.0", **analysis}, sort_keys=False))
    return directory


def run(directory: Path, *, status: int = 0) -> dict:
    """Run an analysis on the docker backend; returns the JSON document about it."""
    program = Path(sys.executable).with_name("drawbar")
    done = subprocess.run(
        [program, "run", directory, "--backend", "docker", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stderr
    return {**json.loads(done.stdout), "stderr": done.stderr}


@pytest.mark.parametrize("case", IN_CONTAINERS, ids=str)
def test_a_specification_publishes_what_it_does_with_stock_yadage(case: Case, tmp_path: Path) -> None:
    """Stock yadage runs `docker run` on the same engine."""
    spec, parameters = prepare(case, specifications(), tmp_path / "ours", images=True)
    below = sorted(path.name for path in spec.iterdir())
    inputs = {
        "parameters": parameters,
        "options": options(case),
        "directories": [name for name in below if (spec / name).is_dir()],
        "files": [name for name in below if (spec / name).is_file()],
    }
    found = run(write(spec, {"inputs": inputs, "workflow": {"type": "yadage", "file": case.file}}))
    environment = {"PACKTIVITY_DOCKER_NOPULL": "1"}
    expected = stock(case, specifications(), tmp_path / "stock", images=True, environment=environment)
    assert None not in expected.values(), "stock yadage failed"
    assert ordered(published(Path(found["workspace"]))) == ordered(expected)
    assert {job["backend"] for job in found["jobs"]} == {"docker"}


def test_a_workflow_of_the_shape_of_madminer(tmp_path, stand_ins):
    found = run(madminer(tmp_path / "madminer", "/dev/null"))
    workspace = Path(found["workspace"])
    assert (workspace / "workflow_ph/combine/combined.out").read_text() == COMBINED
    assert (workspace / "workflow_ml/plotting/plot.out").read_text() == PLOT
    assert sorted(job["step"].rpartition("/")[2] for job in found["jobs"]) == JOBS
    assert {job["backend"] for job in found["jobs"]} == {"docker"}


def test_a_workflow_of_the_shape_of_recast(tmp_path, stand_ins):
    found = run(recast(tmp_path / "recast"))
    assert (Path(found["workspace"]) / "statanalysis/limit.txt").read_text() == LIMIT
    assert {job["backend"] for job in found["jobs"]} == {"docker"}


def stages(*given: tuple[str, dict, dict]) -> dict:
    """An inline workflow of stages, each with its name, its step and its parameters, one after the other."""
    made, before = [], []
    for name, step, parameters in given:
        scheduler = {"scheduler_type": "singlestep-stage", "parameters": parameters, "step": step}
        made.append({"name": name, "dependencies": [*before], "scheduler": scheduler})
        before.append(name)
    return {"workflow": {"type": "yadage", "specification": {"stages": made}}}


def command(cmd: str, environment: dict, **process: str) -> dict:
    return {
        "process": process or {"process_type": "string-interpolated-cmd", "cmd": cmd},
        "environment": environment,
        "publisher": {"publisher_type": "frompar-pub", "outputmap": {"out": "out"}},
    }


BUSYBOX = ("busybox", "latest")
OUT = {"out": "{workdir}/out"}


def test_an_environment_in_a_container(tmp_path):
    """Variables, a script to source, a directory, parameters in files, a script for an interpreter."""
    environment = encapsulated(
        BUSYBOX,
        envscript="setup/env.sh",
        env={"NAME": "you; $(id)"},
        par_mounts=[{"mountpath": "/parameters/words.json", "jqscript": ".words"}],
    )
    script = "echo $GREETING $NAME > {out}; cat /parameters/words.json >> {out}; test -x /bin/busybox"
    process = {"process_type": "interpolated-script-cmd", "interpreter": "sh -e", "script": script}
    analysis = stages(
        ("a", command("", environment, **process), {**OUT, "words": ["one", "it's"]}),
        ("b", command("pwd > {out}", encapsulated(BUSYBOX, workdir="{workdir}")), OUT),
        ("c", command("pwd > {out}", encapsulated(BUSYBOX)), OUT),
    )
    (tmp_path / "env.sh").write_text("export GREETING=hello\n")
    (tmp_path / "analysis/setup").mkdir(parents=True)
    (tmp_path / "env.sh").rename(tmp_path / "analysis/setup/env.sh")
    found = run(write(tmp_path / "analysis", {"inputs": {"files": ["setup/env.sh"]}, **analysis}))
    workspace = Path(found["workspace"])
    assert (workspace / "a/out").read_text() == 'hello you; $(id)\n["one", "it\'s"]'
    assert (workspace / "b/out").read_text() == f"{workspace}/b\n"
    assert (workspace / "c/out").read_text() == f"{workspace}\n"


def test_what_another_step_made_cannot_be_written(tmp_path):
    analysis = stages(
        ("a", command("echo 1 > {out}", encapsulated(BUSYBOX)), OUT),
        (
            "b",
            command("cat {x} > {out}; touch {x}", encapsulated(BUSYBOX)),
            {**OUT, "x": {"step": "a", "output": "out"}},
        ),
    )
    found = run(write(tmp_path, analysis), status=1)
    assert "Read-only file system" in found["stderr"]
    assert (Path(found["workspace"]) / "b/out").read_text() == "1\n"


def test_memory_that_a_step_asks_for_ends_it(tmp_path):
    environment = encapsulated(BUSYBOX, resources=[{"kubernetes_memory_limit": "64Mi"}])
    hog = command("touch {out}; head -c 512m /dev/zero | tail", environment)
    found = run(write(tmp_path, stages(("a", hog, OUT))), status=1)
    (job,) = found["jobs"]
    assert job["reason"] == "out-of-memory"


@pytest.mark.skipif(Path("/cvmfs").exists(), reason="this machine has CVMFS")
def test_a_capability_that_the_machine_does_not_have_is_refused(tmp_path):
    found = run(
        write(
            tmp_path, stages(("a", command("touch {out}", encapsulated(BUSYBOX, resources=["CVMFS"])), OUT))
        ),
        status=1,
    )
    (job,) = found["jobs"]
    assert job["reason"] == "rejected"
    assert "/cvmfs" in found["stderr"]
