"""The HTCondor backend keeps the contract, on a real pool."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract

pytestmark = pytest.mark.htcondor


class TestHTCondor(BackendContract):
    @pytest.fixture
    def backend(self, pool, shared):
        return lambda: pool.backend(check_directory=str(shared))

    @pytest.fixture
    def workspace(self, shared):
        return shared / "workspace"
