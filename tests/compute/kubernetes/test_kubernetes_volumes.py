"""Runs in a persistent volume claim, of which each sees its own part, through the command line."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys

import pytest

pytestmark = pytest.mark.kubernetes

IMAGE = "localhost/python:wf"


@pytest.fixture
def claim(cluster, tmp_path):
    """The name of a claim, for a volume that is a directory of this machine: `tmp_path/export`."""
    name = f"drawbar-test-{secrets.token_hex(4)}"
    (tmp_path / "export" / "physics").mkdir(parents=True)
    common = {"storageClassName": "", "accessModes": ["ReadWriteMany"]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **common,
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(tmp_path / "export"), "type": "Directory"},
        },
    }
    wish = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {**common, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }
    for each in (volume, wish):
        cluster.kubectl("create", "-f", "-", text=json.dumps(each))
    yield name
    cluster.kubectl("delete", "pvc", name, "--wait=false")
    cluster.kubectl("delete", "pv", name, "--wait=false")


def test_runs_in_a_claim_see_their_own_part(cluster, claim, tmp_path):
    """The site's part of the volume is at the site's path, and of that a job sees its run's directories."""
    physics = tmp_path / "export" / "physics"
    (tmp_path / "site.toml").write_text(f"""
backend = "kubernetes"
home = "{physics}/home"

[backends.kubernetes]
check_image = "{IMAGE}"

[[backends.kubernetes.volumes]]
path = "{physics}"
claim = "{claim}"
sub_path = "physics"

[[backends.kubernetes.pod_template.spec.containers]]
name = "job"
resources = {{requests = {{cpu = "50m"}}}}
""")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "input.txt").write_text("41\n")
    (tmp_path / "analysis" / "reana.yaml").write_text(f"""
inputs: {{files: [input.txt]}}
workflow:
  type: serial
  specification:
    steps:
      - environment: {IMAGE}
        commands: ["cat input.txt input.txt > twice.txt", "ls {physics} {physics}/home/runs > seen.txt"]
outputs: {{files: [twice.txt, seen.txt]}}
""")
    environment = {**os.environ, "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "site.toml")}
    del environment["DRAWBAR_HOME"]

    def drawbar(*arguments):
        command = [sys.executable, "-m", "drawbar.cli", *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "can be used" in drawbar("backends", "check", "kubernetes")
    for name in ("first", "second"):
        run = json.loads(drawbar("run", str(tmp_path / "analysis"), "--name", name, "--json"))
        workspace = physics / "home" / "runs" / f"{name}.1" / "workspace"
        assert run["workspace"] == str(workspace)
        assert (workspace / "twice.txt").read_text() == "41\n41\n"
        seen = (workspace / "seen.txt").read_text().split()
        assert seen == [f"{physics}:", "home", f"{physics}/home/runs:", f"{name}.1"]
    assert cluster.kubectl("get", "pvc", claim, "-o", "jsonpath={.status.phase}") == "Bound"
