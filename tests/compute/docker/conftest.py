"""The engines of tests/clusters/docker and tests/clusters/podman, and backends on them."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from drawbar.backend import Attempt
from drawbar.model import JobSpec
from drawbar.testing.driver import Driver
from drawbar_docker import containers
from drawbar_docker.backend import DockerBackend
from drawbar_docker.engine import Engine

sys.path.insert(0, str(Path(__file__).parent))  # for docker_driver
sys.path.insert(0, str(Path(__file__).parents[1]))  # for registry

CLUSTERS = Path(__file__).parents[2] / "clusters"


def pytest_collection_modifyitems(config, items):
    """Tests of an engine are for every engine, but for those that are marked for one of them."""
    wrong = [each for each in items if {"docker", "podman"} <= {mark.name for mark in each.iter_markers()}]
    if wrong:
        config.hook.pytest_deselected(items=wrong)
        items[:] = [each for each in items if each not in wrong]


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("docker", marks=pytest.mark.docker),
        pytest.param("podman", marks=pytest.mark.podman),
    ],
)
def cluster(request):
    """Which of the engines it is."""
    return request.param


@pytest.fixture(scope="session")
def script(cluster):
    """Calls the engine's script with a verb."""

    def call(verb):
        done = subprocess.run(
            [CLUSTERS / cluster, verb],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="session")
def host(cluster, script, cluster_missing):
    """Where the engine is."""
    try:
        script("status")
        return script("env").strip().partition("=")[2]
    except (AssertionError, OSError):
        cluster_missing(cluster, "an engine")


@pytest.fixture
def engine(host, monkeypatch):
    """A connection to it; at the end of the test no container of drawbar's may be left."""
    monkeypatch.setenv("DOCKER_HOST", host)
    connection = Engine()
    yield connection
    left = connection.containers(containers.TAG)
    for each in left:
        connection.remove(each["Id"])
    connection.close()
    assert [each["Names"] for each in left] == []


@pytest.fixture
def open_driver(engine, tmp_path):
    """Opens backends; their jobs are ended at the end of the test."""
    drivers = []

    def open_one(directory=None, *, image="busybox:latest", **options):
        workspace = directory or tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        options = DockerBackend.Options(**{"grace_s": 0.5, **options})
        driver = Driver(lambda: DockerBackend(options), workspace.resolve(), patience_s=60, image=image)
        drivers.append(driver)
        return driver.open()

    yield open_one
    for driver in drivers:
        driver.clean_up()


@pytest.fixture
def driver(open_driver):
    return open_driver()


@pytest.fixture
def make_attempt(tmp_path):
    """Attempts, for what needs no engine."""

    def make(*argv, workspace=None, **fields):
        workspace = workspace or tmp_path
        fields = {"directory": str(workspace), "canonical": None, "image": "busybox", **fields}
        return Attempt(
            tag=f"db-{secrets.token_hex(16)}",
            run="r.1",
            number=1,
            record=str(tmp_path / "attempts" / "job.1-1"),
            workspace=str(workspace),
            spec=JobSpec(identity="j", name="job", step="s", argv=argv or ("true",), **fields),
        )

    return make
