"""The base class for batch systems keeps the contract, shown with the backend of the documentation."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract


@pytest.mark.slow
class TestPbs(BackendContract):
    many = 40

    @pytest.fixture
    def backend(self, pbs, options):
        chosen = pbs.PbsOptions.parse(options, where="test")
        return lambda: pbs.PbsBackend(chosen)
