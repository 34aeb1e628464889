"""drawbar couples any workflow engine to any compute backend.

Importing this package costs next to nothing: its names are loaded when they are first used.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from drawbar.api import Run, get, run, runs
    from drawbar.hookspecs import hookimpl

__all__ = ["Run", "__version__", "get", "hookimpl", "run", "runs"]

_MODULES = {
    **dict.fromkeys(("Run", "get", "run", "runs"), "drawbar.api"),
    "hookimpl": "drawbar.hookspecs",
}


def __getattr__(name: str) -> object:
    import importlib

    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("drawbar")
    if name not in _MODULES:
        raise AttributeError(f"module 'drawbar' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
