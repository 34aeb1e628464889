import pytest
from drawbar.plugins import load_plugins
from drawbar.testing import BackendContract
from drawbar_nice import NiceBackend


class TestNice(BackendContract):
    @pytest.fixture
    def backend(self):
        return lambda: NiceBackend(NiceBackend.Options(look_s=0.02))


def test_drawbar_finds_it():
    assert load_plugins().backend("nice") is NiceBackend
