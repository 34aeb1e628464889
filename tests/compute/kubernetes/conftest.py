"""The cluster of tests/clusters/kubernetes, for tests with the mark `kubernetes`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawbar.testing.driver import Driver
from drawbar_kubernetes.api import Api
from drawbar_kubernetes.backend import KubernetesBackend
from drawbar_kubernetes.manifest import SELECTOR

sys.path.insert(0, str(Path(__file__).parent))  # for the fake server

SCRIPT = Path(__file__).parents[2] / "clusters" / "kubernetes"
IMAGE = "localhost/busybox:wf"
SMALL = {"spec": {"containers": [{"name": "job", "resources": {"requests": {"cpu": "50m"}}}]}}
"""So that more jobs run at once than this machine has cores."""


class Cluster:
    """A running cluster, and what tests do to it. `volume` is a directory that pods see."""

    def __init__(self, directory: Path, admin: str) -> None:
        self.directory = directory
        self.admin = admin

    def script(self, *arguments: str) -> str:
        done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        command = ["kubectl", "--kubeconfig", self.admin, "--namespace", "wf", *arguments]
        return subprocess.run(
            command, input=text, capture_output=True, text=True, check=True, timeout=120
        ).stdout.strip()

    def kubectl_as_account(self, kubeconfig: str, *arguments: str) -> str:
        """What drawbar's own account is told, whatever the exit status."""
        command = ["kubectl", "--kubeconfig", kubeconfig, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip()

    def objects(self, kind: str) -> list[dict]:
        return json.loads(self.kubectl("get", kind, "-l", SELECTOR, "-o", "json"))["items"]

    def delete_pod(self, name: str) -> None:
        self.kubectl("delete", "pod", name, "--wait=false")

    def delete_job(self, name: str) -> None:
        self.kubectl("delete", "job", name, "--wait=false")

    def evict(self, name: str) -> None:
        eviction = {
            "apiVersion": "policy/v1beta1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": "wf"},
        }
        self.kubectl(
            "create",
            "--raw",
            f"/api/v1/namespaces/wf/pods/{name}/eviction",
            "-f",
            "-",
            text=json.dumps(eviction),
        )

    def options(self, **options) -> dict:
        volume = {"path": str(self.directory), "host_path": str(self.directory)}
        fixed = {"volumes": [volume], "grace_s": 1.0, "pod_template": SMALL, "check_image": IMAGE}
        return {**fixed, **options}

    def backend(self, **options) -> KubernetesBackend:
        return KubernetesBackend(KubernetesBackend.Options.parse(self.options(**options), where="test"))


@pytest.fixture(scope="session")
def environment(cluster_missing):
    """The variables that lead to the cluster."""
    try:
        done = subprocess.run([SCRIPT, "status"], capture_output=True, timeout=60, check=False)
        shown = subprocess.run([SCRIPT, "env"], capture_output=True, text=True, timeout=60, check=True).stdout
        words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    except OSError:
        done = None
    if done is None or done.returncode != 0:
        cluster_missing("kubernetes", "a Kubernetes cluster")
    return words


@pytest.fixture
def cluster(environment, monkeypatch, tmp_path):
    """The cluster, when the pods of earlier tests are gone; at the end no Job of drawbar's may be left."""
    for name in ("KUBECONFIG", "KUBE_ADMIN_CONFIG"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("PATH", environment["PATH"].replace("$PATH", os.environ["PATH"]))
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    cluster = Cluster(tmp_path, environment["KUBE_ADMIN_CONFIG"])
    give_up = time.monotonic() + 120
    while cluster.objects("pods"):  # they go some time after their Jobs
        assert time.monotonic() < give_up
        time.sleep(0.3)
    yield cluster
    left = [each["metadata"]["name"] for each in cluster.objects("jobs")]
    if left:
        cluster.kubectl("delete", "jobs", "-l", SELECTOR, "--wait=false")
    assert left == []


@pytest.fixture
def api(cluster):
    """A connection of our own."""
    connection = Api(None, None, None)
    yield connection
    connection.close()


@pytest.fixture
def open_driver(cluster, tmp_path):
    """Opens backends on the cluster; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(*, image=IMAGE, patience_s=120, **options):
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        driver = Driver(
            lambda: cluster.backend(**options), workspace.resolve(), patience_s=patience_s, image=image
        )
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture
def driver(open_driver):
    return open_driver()
