"""What authors of engines and backends test theirs with, before any cluster has seen them.

`EngineContract` and `BackendContract` are pytest classes to derive from; `MemoryJobs` is a job client
in memory. Needs the extra `drawbar[testing]`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.testing.backend import BackendContract
    from drawbar.testing.engine import EngineContract
    from drawbar.testing.memory import MemoryJobs

__all__ = ["BackendContract", "EngineContract", "MemoryJobs"]

_MODULES = {
    "BackendContract": "drawbar.testing.backend",
    "EngineContract": "drawbar.testing.engine",
    "MemoryJobs": "drawbar.testing.memory",
}


def __getattr__(name: str) -> object:
    import importlib

    if name not in _MODULES:
        raise AttributeError(f"module 'drawbar.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
