"""The local backend keeps the contract with its jobs in an image."""

from __future__ import annotations

from typing import ClassVar

import pytest
from drawbar.backend import BackendFeature
from drawbar.runtime import Runtime
from drawbar.testing import BackendContract
from drawbar_local.backend import LocalBackend

pytestmark = pytest.mark.apptainer


class InImages(LocalBackend):
    """With what holds when a job runs in an image."""

    features: ClassVar = LocalBackend.features | {BackendFeature.NO_NETWORK}


class TestLocalInImages(BackendContract):
    many = 30

    @pytest.fixture
    def backend(self, apptainer, images):
        self.image = str(images / "busybox")

        def open_one():
            backend = InImages(InImages.Options(grace_s=0.5))
            backend.runtime = Runtime(program=apptainer)
            return backend

        return open_one
