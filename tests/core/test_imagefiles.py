"""Images of registries as files: fetched once, told to all who wait, and never half there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from drawbar.imagefiles import ImageFiles
from drawbar.images import Pull
from drawbar.runtime import Runtime

PROGRAM = """#!/bin/sh
echo "$*" >>"{directory}/calls"
while [ -e "{directory}/gate" ]; do sleep 0.02; done
case $4 in *refused*) echo "FATAL:   connection refused" >&2; exit 255 ;; esac
echo image >"$3"
"""


@pytest.fixture
def site(tmp_path):
    program = tmp_path / "apptainer"
    program.write_text(PROGRAM.format(directory=tmp_path))
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def open_files(site):
    opened = []

    def open_one(pull=Pull.MISSING):
        runtime = Runtime(program=str(site / "apptainer"), images=str(site / "images"), pull=pull)
        opened.append(ImageFiles(runtime))
        return opened[-1], runtime

    yield open_one
    for files in opened:
        files.close()


class Answer:
    def __init__(self):
        self.problem: str | None = None
        self._told = threading.Event()

    def __call__(self, problem):
        self.problem = problem
        self._told.set()

    def wait(self):
        assert self._told.wait(30)
        return self.problem


def calls(site):
    path = site / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_an_image_is_fetched_once_for_all_who_wait(site, open_files):
    (files, runtime), (others, _) = open_files(), open_files()
    gate = site / "gate"
    gate.touch()
    assert files.missing("python:3")
    answers = [Answer() for _ in range(4)]
    for answer, each in zip(answers, (files, files, others, others), strict=True):
        each.fetch("python:3" if each is files else "docker.io/library/python:3", answer)
    gate.unlink()
    assert [answer.wait() for answer in answers] == [None] * 4
    (call,) = calls(site)
    assert call.startswith("--silent pull ")
    assert call.endswith(" docker://docker.io/library/python:3")
    assert Path(runtime.path_of("python:3")).read_text() == "image\n"
    assert not files.missing("docker://python:3")


def test_a_refusal_is_told_with_the_remedy_and_not_remembered(site, open_files):
    files, runtime = open_files()
    for _ in range(2):
        answer = Answer()
        files.fetch("refused", answer)
        assert "cannot be fetched: connection refused; check its name" in answer.wait()
    assert len(calls(site)) == 2
    assert not Path(runtime.path_of("refused")).exists()


def test_closing_ends_what_is_being_fetched(site, open_files):
    files, _ = open_files()
    (site / "gate").touch()
    answer = Answer()
    files.fetch("python", answer)
    while not calls(site):
        threading.Event().wait(0.01)
    files.close()
    assert "cannot be fetched" in answer.wait()
    assert not list((site / "images").glob("*.part"))


def test_what_a_killed_driver_left_is_removed(site, open_files):
    files, runtime = open_files()
    path = Path(runtime.path_of("python"))
    path.parent.mkdir()
    left = path.with_name(f".{path.name}.dead.part")
    left.touch()
    answer = Answer()
    files.fetch("python", answer)
    assert answer.wait() is None
    assert not left.exists()


def test_pull_policies(site, open_files):
    files, _ = open_files(Pull.NEVER)
    answer = Answer()
    files.fetch("python", answer)
    assert "forbid to fetch" in answer.wait()
    for _ in range(2):  # two runs
        files, _ = open_files(Pull.ALWAYS)
        for _ in range(2):
            if files.missing("python"):
                files.fetch("python", answer := Answer())
                assert answer.wait() is None
    assert len(calls(site)) == 2


def test_paths_are_nothing_to_fetch(open_files, tmp_path):
    files, runtime = open_files()
    assert not files.missing("/images/python.sif")
    assert not files.missing("relative.sif")
    with pytest.raises(ValueError, match="begins with /"):
        runtime.path_of("relative.sif")
    assert runtime.path_of("a/b:1") != runtime.path_of("a/b_1")


def test_no_room_is_told(site, open_files):
    files, _ = open_files()
    (site / "images").write_text("a file")
    answer = Answer()
    files.fetch("python", answer)
    assert "cannot be kept" in answer.wait()
