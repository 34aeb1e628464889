"""The local backend keeps the contract."""

from __future__ import annotations

import pytest
from drawbar.testing import BackendContract
from drawbar_local.backend import LocalBackend


class TestLocal(BackendContract):
    @pytest.fixture
    def backend(self):
        return lambda: LocalBackend(LocalBackend.Options(grace_s=0.5))
