"""Images from a registry: fetched once, with the user's credentials, and known by their digests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from docker_driver import wait_for
from drawbar.model import Reason
from drawbar_docker import containers
from registry import Registry, layer_of

USER, PASSWORD = "somebody", "s3cret-of-somebody"
ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - name: one
        environment: {image}
        commands: ["date >> made.txt; while [ -e wait ]; do sleep 0.1; done"]
outputs:
  files: [made.txt]
"""


@pytest.fixture(scope="module")
def layer(host):
    """A root file system with a shell."""
    import docker

    client = docker.APIClient(base_url=host, version="auto", timeout=60)
    try:
        return layer_of(b"".join(client.get_image("busybox:latest")))
    finally:
        client.close()


@pytest.fixture
def registry(layer, engine):
    """Starts registries; what was fetched from them goes at the end of the test."""
    registries = []

    def start(**options):
        registries.append(Registry(layer, "group/tool", **options))
        registries[-1].set("1", "first")
        return registries[-1]

    yield start
    import docker

    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=60)
    for each in registries:
        each.close()
        for image in client.images(all=False):
            if any(name.startswith(each.address) for name in image["RepoTags"] or ()):
                client.remove_image(image["Id"], force=True)
    client.close()


@pytest.fixture
def logged_in(tmp_path, monkeypatch):
    """Writes the user's docker configuration."""

    def write(configuration):
        directory = tmp_path / "docker-config"
        directory.mkdir(exist_ok=True)
        (directory / "config.json").write_text(json.dumps(configuration))
        monkeypatch.setenv("DOCKER_CONFIG", str(directory))

    write({})
    return write


@pytest.fixture
def drawbar(tmp_path, engine, monkeypatch):
    """The command, and an analysis whose one step has the image that is given."""
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    (tmp_path / "analysis").mkdir()

    def call(*arguments, image=None, status=0, settings=""):
        (tmp_path / "site.toml").write_text(settings)
        monkeypatch.setenv("DRAWBAR_SYSTEM_CONFIG", str(tmp_path / "site.toml"))
        if image is not None:
            (tmp_path / "analysis" / "reana.yaml").write_text(ANALYSIS.format(image=image))
        done = subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=tmp_path / "analysis",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
        return done

    return call


def test_an_image_is_fetched_once_for_all_jobs_with_progress(registry, logged_in, driver):
    here = registry()
    here.gate.clear()
    jobs = [driver.shell("exit 0", image=here.image("1")) for _ in range(5)]
    driver.run(*jobs)
    wait_for(lambda: here.asked["blobs"])
    waiting = wait_for(lambda: [each for each in driver.watch.of(jobs[0]) if "fetching" in each.message])
    assert here.image("1") in waiting[0].message
    here.gate.set()
    assert all(driver.end(job).ok for job in jobs)
    assert here.asked["blobs"] <= 2  # the configuration, and the layer where the engine has not kept it


def test_a_registry_that_fails_for_a_while_is_asked_again(registry, logged_in, driver):
    here = registry()
    here.failures = 1
    job = driver.shell("exit 0", image=here.image("1"))
    driver.run(job)
    assert driver.end(job).ok


def test_an_image_that_does_not_exist_is_the_reason(registry, logged_in, driver):
    here = registry()
    job = driver.shell("exit 0", image=here.image("2"))
    driver.run(job)
    assert driver.end(job).reason is Reason.IMAGE
    assert here.image("2") in driver.end(job).message


def test_a_private_image_takes_the_users_login_and_the_secret_is_nowhere(
    registry, logged_in, drawbar, engine, tmp_path
):
    here = registry(user=USER, password=PASSWORD)
    refused = drawbar("run", "--backend", "docker", "--json", image=here.image("1"), status=1)
    (job,) = json.loads(refused.stdout)["jobs"]
    assert job["reason"] == "image"
    assert "docker login" in job["message"]

    logged_in(here.configuration(USER, PASSWORD))
    (tmp_path / "analysis" / "wait").touch()
    document = ANALYSIS.format(image=here.image("1")) + "inputs:\n  files: [wait]\n"
    (tmp_path / "analysis" / "reana.yaml").write_text(document)
    started = drawbar("run", "--backend", "docker", "--name", "private", "--detach", "--json")
    # An engine lists what it is still making, before it can be looked at.
    (container,) = wait_for(
        lambda: [each for each in engine.containers(containers.TAG) if each["State"] == "running"]
    )
    inspected = json.dumps(engine.inspect(container["Id"]))
    Path(json.loads(started.stdout)["workspace"], "wait").unlink()
    drawbar("wait", "private")
    shown = [drawbar(command, "private").stdout for command in ("status", "logs", "outputs")]
    secrets = (PASSWORD, here.configuration(USER, PASSWORD)["auths"][here.address]["auth"])
    kept = [path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert len(kept) > 5
    for secret in secrets:
        assert all(secret not in text for text in (inspected, *shown, started.stderr, refused.stderr))
        assert all(secret.encode() not in content for content in kept)


def test_a_moved_tag_repeats_the_jobs_and_says_why(registry, logged_in, drawbar):
    here = registry()
    first = here.set("1", "first")
    settings = "[images]\npull = 'always'\n"
    arguments = ("--json",)
    ran = drawbar("run", "--backend", "docker", "--name", "moved", *arguments, image=here.image("1"))
    (job,) = json.loads(ran.stdout)["jobs"]
    assert job["image_digest"] == first

    again = drawbar("resume", "moved", *arguments, settings=settings)
    assert json.loads(again.stdout)["jobs"][0]["attempt"] == 1  # nothing moved

    second = here.set("1", "second")
    moved = drawbar("resume", "moved", *arguments, settings=settings)
    (job,) = json.loads(moved.stdout)["jobs"]
    assert (job["attempt"], job["image_digest"]) == (2, second)
    assert f"the image {here.image('1')} is another one now" in moved.stderr
    manifest = json.loads(Path(json.loads(moved.stdout)["workspace"], "..", "manifest.json").read_text())
    assert [each["image_digest"] for each in manifest["jobs"]] == [second]

    here.close()  # and what is here still counts
    alone = drawbar("resume", "moved", *arguments, settings=settings)
    assert json.loads(alone.stdout)["jobs"][0]["attempt"] == 2


def test_a_run_whose_image_is_gone_is_answered_from_what_it_knows(registry, logged_in, drawbar, engine):
    import docker

    here = registry()
    drawbar("run", "--backend", "docker", "--name", "gone", image=here.image("1"))
    client = docker.APIClient(base_url=os.environ["DOCKER_HOST"], version="auto", timeout=60)
    client.remove_image(here.image("1"), force=True)
    client.close()
    here.set("1", "second")
    here.close()
    again = drawbar("resume", "gone", "--json")
    assert json.loads(again.stdout)["jobs"][0]["attempt"] == 1
