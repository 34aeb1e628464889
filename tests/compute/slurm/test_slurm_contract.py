"""The Slurm backend keeps the contract, on a real Slurm."""

from __future__ import annotations

from typing import ClassVar

import pytest
from drawbar.backend import BackendFeature
from drawbar.testing import BackendContract
from drawbar_slurm.backend import SlurmBackend

pytestmark = pytest.mark.slurm


class WithMemoryLimits(SlurmBackend):
    """On a cluster that confines jobs by control groups, which not every one does."""

    features: ClassVar = SlurmBackend.features | {BackendFeature.MEMORY_LIMIT}


class TestSlurm(BackendContract):
    @pytest.fixture
    def backend(self, slurm):
        options = WithMemoryLimits.Options.parse(slurm.options, where="test")
        return lambda: WithMemoryLimits(options)
