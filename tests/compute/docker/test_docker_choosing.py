"""A run that has chosen its backend keeps it, whatever is there when it is resumed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ANALYSIS = """
workflow:
  type: serial
  specification:
    steps:
      - {environment: "python:3-slim", commands: ["date >> first.txt; cat /etc/hostname > where.txt"]}
      - {environment: "python:3-slim", commands: ["test -e go"]}
outputs:
  files: [first.txt]
"""
NO_ENGINE = "unix:///nowhere/docker.sock"


@pytest.fixture
def drawbar(tmp_path, engine, monkeypatch):
    """The command, where a program `apptainer` is on PATH, which notes that it was called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apptainer").write_text(f"#!/bin/sh\necho called >> {tmp_path}/called\nexit 1\n")
    (programs / "apptainer").chmod(0o755)
    (tmp_path / "site.toml").touch()
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "reana.yaml").write_text(ANALYSIS)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("DRAWBAR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DRAWBAR_SYSTEM_CONFIG", str(tmp_path / "site.toml"))

    def call(*arguments, status):
        done = subprocess.run(
            [sys.executable, "-m", "drawbar.cli", *arguments],
            cwd=tmp_path / "analysis",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == status, done.stderr
        return done.stderr

    return call


def test_a_run_keeps_its_engine_when_that_is_gone_and_apptainer_there(drawbar, tmp_path, monkeypatch):
    host = os.environ["DOCKER_HOST"]
    assert "runs on docker" in drawbar("run", "--name", "one", status=1)
    (workspace,) = (tmp_path / "home").rglob("workspace")
    (workspace / "go").touch()
    first = (workspace / "first.txt").read_text()
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    said = drawbar("resume", "one", status=3)
    assert "/nowhere/docker.sock" in said
    assert "start Docker" in said
    monkeypatch.setenv("DOCKER_HOST", host)
    drawbar("resume", "one", status=0)
    assert (workspace / "first.txt").read_text() == first
    assert not (tmp_path / "called").exists()


def test_a_run_keeps_apptainer_when_an_engine_is_there(drawbar, tmp_path, monkeypatch):
    host = os.environ["DOCKER_HOST"]
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)
    assert "apptainer runs them, since no container engine answers" in drawbar(
        "run", "--name", "one", status=1
    )
    monkeypatch.setenv("DOCKER_HOST", host)
    (tmp_path / "called").unlink()
    assert "runs on docker" not in drawbar("resume", "one", status=1)
    assert (tmp_path / "called").exists()
    (tmp_path / "bin" / "apptainer").unlink()
    said = drawbar("resume", "one", status=2)
    assert "'apptainer'" in said
    assert "install Apptainer" in said
