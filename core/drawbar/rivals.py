"""Which live attempts would work in the same place as a job that is about to be prepared.

After a restart, attempts of an earlier drive may be alive that the workflow, edited since, does not ask
for any more. Two writers in one file give a wrong result that nobody notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from drawbar.model import JobSpec

Wanted = tuple[str, int, bool, Sequence[str]]
"""A job that is to be prepared: identity, try number, whether it may change anything, its outputs."""


def rivals(wanted: Sequence[Wanted], alive: Iterable[tuple[str, JobSpec]]) -> set[str]:
    """Tags of live attempts that must end first.

    Those of the same jobs, those with an output in the same place, and, where either side may change
    anything in the workspace, all.
    """
    names = {(identity, try_number) for identity, try_number, _, _ in wanted}
    anything = any(undeclared for _, _, undeclared, _ in wanted)
    outputs = {PurePosixPath(path) for _, _, _, paths in wanted for path in paths}
    above = {parent for path in outputs for parent in path.parents}
    found = set()
    for tag, spec in alive:
        places = [PurePosixPath(path) for path in spec.outputs]
        shared = any(path in above or not outputs.isdisjoint((path, *path.parents)) for path in places)
        same = (spec.identity, spec.try_number) in names
        if anything or spec.undeclared_outputs or shared or same:
            found.add(tag)
    return found
