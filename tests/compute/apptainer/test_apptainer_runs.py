"""Analyses in images, through the command line."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.apptainer

PUBLISHED = "quay.io/jupyter/scipy-notebook:2025-03-14"


@pytest.mark.slow
def test_the_example_in_four_engines(apptainer, scientific_python, four_engines, tmp_path):
    """In an image that stands in for the published one by an alias."""
    settings = f'containers = "apptainer"\n[images.aliases]\n"{PUBLISHED}" = "{scientific_python}"\n'
    runs = four_engines(tmp_path, settings)
    for run in runs.values():
        assert {job["backend"] for job in run["jobs"]} == {"local"}
    assert list((tmp_path / "home").glob("runs/*/attempts/*/inside"))
    assert not list((tmp_path / "home").glob("runs/*/attempts/*.scratch"))
