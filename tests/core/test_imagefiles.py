"""Images of registries as files: fetched once, told with the remedy, and never half there."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drawbar.backend import Attempt
from drawbar.errors import BackendError
from drawbar.images import Pull
from drawbar.model import JobSpec
from drawbar.runtime import NoImage, Runtime

PROGRAM = """#!/bin/sh
echo "$*" >>"{directory}/calls"
while [ -e "{directory}/gate" ]; do sleep 0.02; done
case $4 in *refused*) echo "FATAL:   connection refused" >&2; exit 255 ;; esac
echo image >"$3"
"""
IMAGE = b"image\n"


@pytest.fixture
def site(tmp_path):
    program = tmp_path / "apptainer"
    program.write_text(PROGRAM.format(directory=tmp_path))
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def make(site):
    def make(pull=Pull.MISSING):
        return Runtime(program=str(site / "apptainer"), images=str(site / "images"), pull=pull)

    return make


def calls(site):
    path = site / "calls"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def quiet(_):
    """Hears no progress."""


def test_an_image_is_fetched_once_for_all_who_want_it(site, make):
    (site / "gate").touch()
    names = ("python:3", "docker://python:3", "docker.io/library/python:3", "python:3")
    said = []
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(make().fetch, name, said.append) for name in names]
        wait_for(lambda: len(said) == 4)
        (site / "gate").unlink()
        digests = {answer.result() for answer in answers}
    assert digests == {f"sha256:{hashlib.sha256(IMAGE).hexdigest()}"}
    assert said[0].startswith("fetching the image ")
    (call,) = calls(site)
    assert call.startswith("--silent pull ")
    assert call.endswith(" docker://docker.io/library/python:3")
    found = make().find("python:3")
    assert (found.here, {found.digest}) == (True, digests)
    assert not make().find("python:4").here


def test_a_refusal_is_told_with_the_remedy_and_tried_again(site, make, tmp_path):
    runtime = make()
    spec = JobSpec(
        identity="j", name="j", step="s", argv=("x",), directory="/", canonical=None, image="refused"
    )
    attempt = Attempt(tag="t", run="r", number=1, record="/r", workspace="/w", spec=spec)
    with pytest.raises(NoImage, match="has not been fetched"):
        runtime.wrap(attempt)
    for _ in range(2):
        with pytest.raises(BackendError, match="cannot be fetched: connection refused; check its name"):
            runtime.fetch("refused", quiet)
    with pytest.raises(NoImage, match=r"connection refused; .* images\.aliases"):
        runtime.wrap(attempt)
    assert len(calls(site)) == 2
    assert not list((site / "images").glob("*.sif")) + list((site / "images").glob("*.part"))


def test_what_a_killed_driver_left_is_removed(site, make):
    path = Path(make().path_of("python"))
    path.parent.mkdir()
    left = path.with_name(f".{path.name}.dead.part")
    left.touch()
    make().fetch("python", quiet)
    assert not left.exists()


def test_a_killed_driver_takes_the_program_with_it(site, make):
    (site / "gate").touch()
    program = (
        "import sys\nfrom drawbar.runtime import Runtime\n"
        "Runtime(program=sys.argv[1], images=sys.argv[2]).fetch('python', print)\n"
    )
    command = [sys.executable, "-c", program, str(site / "apptainer"), str(site / "images")]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: calls(site))
    driver.kill()
    driver.wait()

    def gone():
        lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        return str(site / "apptainer") not in lines

    wait_for(gone)


def test_pull_policies(site, make):
    with pytest.raises(BackendError, match="forbids to fetch"):
        make(Pull.NEVER).fetch("python", quiet)
    for _ in range(2):
        make(Pull.ALWAYS).fetch("python", quiet)
    make(Pull.NEVER).fetch("python", quiet)
    assert len(calls(site)) == 2


def test_images_by_path_are_used_in_place(site, make, tmp_path):
    runtime = make()
    with pytest.raises(ValueError, match="begins with /"):
        runtime.path_of("relative.sif")
    assert runtime.path_of("a/b:1") != runtime.path_of("a/b_1")
    assert runtime.fetch("/nothing/here.sif", quiet) is None
    (tmp_path / "an.sif").write_text("an image")
    first = runtime.fetch(f"{tmp_path}/an.sif", quiet)
    (tmp_path / "an.sif").write_text("another image")
    assert first.startswith("sha256:")
    assert runtime.fetch(f"{tmp_path}/an.sif", quiet) != first
    assert calls(site) == []


def test_an_unpacked_image_is_the_place_that_its_path_leads_to(make, tmp_path):
    """As on CVMFS, where a tag is a link to a directory with the digest in its name."""
    for name in ("1234", "5678"):
        (tmp_path / ".flat" / name).mkdir(parents=True)
    tag = tmp_path / "python:3"
    tag.symlink_to(".flat/1234")
    assert make().fetch(str(tag), quiet) == f"directory:{tmp_path}/.flat/1234"
    tag.unlink()
    tag.symlink_to(".flat/5678")
    assert make().fetch(str(tag), quiet) == f"directory:{tmp_path}/.flat/5678"


def test_an_unpacked_image_that_is_made_anew_is_another_one(make, tmp_path):
    labels = tmp_path / "image" / ".singularity.d" / "labels.json"
    labels.parent.mkdir(parents=True)
    digests = []
    for second in (1, 1, 2):
        labels.write_text(f'{{"org.label-schema.build-date": "Friday_12:00:0{second}_UTC"}}')
        digests.append(make().fetch(str(tmp_path / "image"), quiet))
    assert digests[0] == digests[1] != digests[2]
    assert all(each.startswith(f"directory:{tmp_path}/image@sha256:") for each in digests)


def test_no_room_is_told(site, make):
    (site / "images").write_text("a file")
    with pytest.raises(BackendError, match="cannot be kept"):
        make().fetch("python", quiet)
