"""The workflow's own sources as they are when an engine process starts.

Snakemake keeps a copy of every Snakefile, script, notebook and wrapper that it has read, and hands the
place of the copies to a nested Snakemake. Here that place is in the workspace, which is on every worker,
and one of its own for every start. So all jobs of a start run the same code, which is that in their keys,
whatever is edited meanwhile; and what an earlier start left alive runs on with what it began with.
The program that a nested Snakemake is started by lies there too.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from drawbar_snakemake import pipes

_PLACE = Path(".snakemake", "drawbar-sources")
_STARTER = "nested.py"


def begin(workdir: Path) -> Path:
    """A new place for copies, in the directory that a workflow works in."""
    parent = workdir.absolute() / _PLACE
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=parent))


def starter(place: Path) -> Path:
    """What to run a nested Snakemake by: `python STARTER -m snakemake ...`."""
    program = place / _STARTER
    if not program.exists():
        shutil.copyfile(pipes.__file__, program)
    return program


def end() -> None:
    """No job is left that could need a copy; called in the directory that the workflow works in."""
    shutil.rmtree(_PLACE, ignore_errors=True)
