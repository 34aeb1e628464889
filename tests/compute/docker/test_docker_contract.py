"""The docker backend keeps the contract."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract
from drawbar_docker.backend import DockerBackend


class TestDocker(BackendContract):
    image = "busybox:latest"
    many = 30

    def test_the_memory_limit_is_enforced(self, driver, cluster):
        """As everywhere, but that Podman 4 does not say that memory was the reason."""
        if cluster == "podman":
            pytest.skip("Podman 4 does not tell an end by the memory limit from another SIGKILL")
        super().test_the_memory_limit_is_enforced(driver)

    @pytest.fixture
    def backend(self, engine):
        return lambda: DockerBackend(DockerBackend.Options(grace_s=0.5))
