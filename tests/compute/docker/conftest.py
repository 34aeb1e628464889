"""The engine that these tests use: the one of tests/clusters/docker, or whatever DOCKER_HOST names."""

from __future__ import annotations

import contextlib
import os

import pytest
from drawbar.testing.driver import Driver
from drawbar_docker.backend import DockerBackend
from drawbar_docker.engine import Engine

ENGINE = "DRAWBAR_TEST_DOCKER"
"""Set by `tests/clusters/docker env`: the tests may use this engine, and none that happens to be here."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("docker") and ENGINE not in os.environ:
            item.add_marker(pytest.mark.skip(reason="needs an engine: tests/clusters/docker start"))
