"""Rules of Snakemake in containers: commands in their own image, the others where there is a Snakemake."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from drawbar_docker import containers

pytestmark = pytest.mark.docker

IMAGE = "drawbar-test/snakemake:1"
BASE = "python:3-slim"
PLACE = "/usr/local/lib/python3.11/dist-packages"
NAME = re.compile(r"[\w.-]+")


def closure(name: str, found: dict[str, object]) -> dict[str, object]:
    """A distribution that is installed here, and all that it needs of those."""
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return found
    key = package.metadata["Name"].lower().replace("_", "-")
    if key not in found:
        found[key] = package
        for need in package.requires or ():
            if "extra ==" not in need:
                closure(NAME.match(need).group(), found)
    return found


@pytest.fixture(scope="module")
def snakemake_image(host):
    """An image with the Snakemake that these tests run with."""
    import docker

    client = docker.APIClient(base_url=host, version="auto", timeout=300)
    try:
        if client.images(IMAGE):
            return
        if sys.version_info[:2] != (3, 11):
            pytest.skip("the libraries of this Python are not for the image's Python 3.11")
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for package in closure("snakemake", {}).values():
                for file in package.files or ():
                    if not str(file).startswith("..") and "__pycache__" not in str(file):
                        tar.add(package.locate_file(file), str(file), filter=_as_root)
        made = client.create_container(BASE, ["true"])["Id"]
        client.put_archive(made, PLACE, archive.getvalue())
        repository, _, tag = IMAGE.partition(":")
        client.commit(made, repository, tag)
        client.remove_container(made)
    finally:
        client.close()


def _as_root(member):
    member.uid = member.gid = 0
    return member


SNAKEFILE = """\
rule all:
    input: "nested", "scripted"
rule direct:
    output: "direct"
    container: "docker://bash:4.4"
    threads: 1
    shell: "echo $HOSTNAME > {output}"
rule nested:
    input: "direct"
    output: "nested"
    run:
        import os, sys
        Path(output[0]).write_text(Path(input[0]).read_text() + sys.executable)
rule scripted:
    input: "direct"
    output: "scripted"
    params: word="script"
    script: "script.py"
"""


@pytest.fixture
def drawbar(tmp_path, engine, monkeypatch):
    """Runs drawbar in an analysis, with a home and a site of its own."""
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    analysis = tmp_path / "analysis"
    analysis.mkdir()
    (analysis / "Snakefile").write_text(SNAKEFILE)
    (analysis / "script.py").write_text(
        "import sys\nopen(snakemake.output[0], 'w').write(snakemake.params.word + sys.executable)\n"
    )
    site = tmp_path / "site.toml"
    site.write_text("")
    monkeypatch.setenv("DRAWBAR_SYSTEM_CONFIG", str(site))

    def drawbar(*arguments, toml="", status=0):
        site.write_text(toml)
        done = subprocess.run(
            [Path(sys.executable).with_name("drawbar"), *arguments],
            cwd=analysis,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done

    return drawbar


def test_shell_rules_run_in_their_image_and_others_in_one_with_snakemake(drawbar, engine, snakemake_image):
    site = f'[backends.docker]\nengine_image = "{IMAGE}"\n'
    run = drawbar("run", "Snakefile", "--backend", "docker", "--name", "s", "--json", toml=site)
    workspace = Path(run["workspace"])
    host, interpreter = (workspace / "nested").read_text().split("\n")
    assert (workspace / "direct").read_text() == f"{host}\n"
    assert host not in ("", socket.gethostname())
    assert interpreter != sys.executable
    assert (workspace / "scripted").read_text() == f"script{interpreter}"
    assert {job["backend"] for job in run["jobs"]} == {"docker"}
    assert engine.containers(containers.TAG) == []
    again = drawbar("resume", "s", "--json", toml=site)
    assert [job["started"] for job in again["jobs"]] == [job["started"] for job in run["jobs"]]


def test_the_option_of_an_analysis_says_it_too(drawbar, snakemake_image):
    option = ("-o", f"nested_image={IMAGE}")
    run = drawbar("run", "Snakefile", "--backend", "docker", "--json", *option)
    assert run["state"] == "finished"


def test_without_a_snakemake_nothing_is_run(drawbar):
    done = drawbar("run", "Snakefile", "--backend", "docker", "-o", "image=bash:4.4", status=2)
    assert "nested" in done.stderr
    assert "engine_image" in done.stderr
