"""The docker backend keeps the contract."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract
from drawbar_docker.backend import DockerBackend


class TestDocker(BackendContract):
    image = "busybox:latest"
    many = 30

    @pytest.fixture
    def backend(self, engine):
        return lambda: DockerBackend(DockerBackend.Options(grace_s=0.5))
