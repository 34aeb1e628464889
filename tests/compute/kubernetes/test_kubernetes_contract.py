"""The Kubernetes backend keeps the contract, on the real cluster."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract

pytestmark = pytest.mark.kubernetes


class TestKubernetes(BackendContract):
    image = "localhost/busybox:wf"
    many = 20
    patience_s = 120.0

    @pytest.fixture
    def backend(self, cluster):
        return lambda: cluster.backend()
