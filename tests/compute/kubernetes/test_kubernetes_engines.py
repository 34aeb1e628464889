"""The example in its four languages, in pods."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kubernetes

PUBLISHED = "quay.io/jupyter/scipy-notebook:2025-03-14"


def test_the_example_in_four_languages(cluster, tmp_path, four_engines):
    """The libraries come from a file system that every job sees, as they would from /cvmfs."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the libraries of this Python are not for the image's Python 3.11")
    libraries = next(path for path in map(Path, sys.path) if (path / "numpy").exists())
    settings = f"""
[images.aliases]
"{PUBLISHED}" = "localhost/python:wf"

[backends.kubernetes]
grace_s = 1

[[backends.kubernetes.volumes]]
path = "{tmp_path}"
host_path = "{tmp_path}"

[[backends.kubernetes.volumes]]
path = "{libraries}"
host_path = "{libraries}"
everywhere = true

[[backends.kubernetes.pod_template.spec.containers]]
name = "job"
env = [{{name = "PYTHONPATH", value = "{libraries}"}}]
resources = {{requests = {{cpu = "50m"}}}}
"""
    runs = four_engines(tmp_path, settings, "--backend", "kubernetes")
    for run in runs.values():
        assert {job["backend"] for job in run["jobs"]} == {"kubernetes"}
        assert all(job["native_id"].startswith("db-") for job in run["jobs"])
