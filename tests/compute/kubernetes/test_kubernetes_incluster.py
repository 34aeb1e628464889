"""drawbar in a pod of the cluster, with the account of the documentation and no other."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kubernetes

ROOT = Path(__file__).parents[3]
IMAGE = "localhost/python:wf"
ANALYSIS = f"""
inputs: {{}}
workflow:
  type: serial
  specification:
    steps:
      - name: first
        environment: {IMAGE}
        commands: ["echo one > first.txt"]
      - name: second
        environment: {IMAGE}
        kubernetes_memory_limit: 64Mi
        commands: ["cat first.txt first.txt > second.txt"]
outputs:
  files: [second.txt]
"""


def test_a_driver_in_a_pod(cluster, tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the libraries of this Python are not for the image's Python 3.11")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "reana.yaml").write_text(ANALYSIS)
    (tmp_path / "site.toml").write_text(
        'backend = "kubernetes"\n[[backends.kubernetes.volumes]]\n'
        f'path = "{tmp_path}"\nhost_path = "{tmp_path}"\n'
        '[[backends.kubernetes.pod_template.spec.containers]]\nname = "job"\n'
        'resources = {requests = {cpu = "50m"}}\n'
    )
    address, _, port = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={..server}").rpartition(
        ":"
    )
    variables = {
        "DRAWBAR_HOME": str(tmp_path / "home"),
        "DRAWBAR_SYSTEM_CONFIG": str(tmp_path / "site.toml"),
        "KUBERNETES_SERVICE_HOST": address.removeprefix("https://"),  # this cluster has no service network
        "KUBERNETES_SERVICE_PORT": port,
    }
    places = {str(ROOT), sys.prefix, sys.base_prefix, str(tmp_path)} - {"/usr"}
    command = [
        sys.executable,
        "-m",
        "drawbar.cli",
        "run",
        f"{tmp_path}/analysis",
        "--name",
        "inside",
        "--json",
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "driver"},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": "drawbar",
            "hostNetwork": True,
            "containers": [
                {
                    "name": "driver",
                    "image": IMAGE,
                    "command": command,
                    "env": [{"name": name, "value": value} for name, value in variables.items()],
                    "volumeMounts": [{"name": f"v{n}", "mountPath": each} for n, each in enumerate(places)],
                }
            ],
            "volumes": [{"name": f"v{n}", "hostPath": {"path": each}} for n, each in enumerate(places)],
        },
    }
    cluster.kubectl("create", "-f", "-", text=json.dumps(pod))
    try:
        give_up = time.monotonic() + 180
        while (phase := cluster.kubectl("get", "pod", "driver", "-o", "jsonpath={.status.phase}")) in (
            "Pending",
            "Running",
        ):
            assert time.monotonic() < give_up, phase
            time.sleep(0.5)
        said = cluster.kubectl("logs", "driver")
        assert phase == "Succeeded", said
    finally:
        cluster.kubectl("delete", "pod", "driver", "--wait=false")
    run = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert run["state"] == "finished"
    assert {job["backend"] for job in run["jobs"]} == {"kubernetes"}
    assert (tmp_path / "home" / "runs" / "inside.1" / "workspace" / "second.txt").read_text() == "one\none\n"


def test_the_account_may_do_no_more(cluster, environment):
    """The tests run with it, so it is enough; and what it does not need it does not have."""
    for verb, what in (
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("patch", "jobs"),
        ("list", "nodes"),
        ("list", "configmaps"),
    ):
        may = cluster.kubectl_as_account(environment["KUBECONFIG"], "auth", "can-i", verb, what)
        assert may == "no", f"{verb} {what}"
