"""Why a step of an analysis would be repeated by `resume`: what is other than when its run was last driven.

Steps are compared as the engine sees them now and saw them then, and files by content. What the
engine finds out only while it runs is not in here; the run itself says that (`drawbar status`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drawbar.analysis import Analysis
from drawbar.engine import StepInfo, WorkflowInfo
from drawbar.errors import UsageError
from drawbar.home import Home, RunDirectory
from drawbar.model import JobState
from drawbar.options import did_you_mean
from drawbar.report import attempts
from drawbar.store import Store


def newest_run(home: Home, analysis: Analysis) -> RunDirectory:
    """The run of an analysis that was made last; `UsageError` when there is none."""
    document = str(analysis.document.relative_to(analysis.root))
    found = [
        (spec.created, run)
        for run in home.runs()
        if (spec := run.spec()).source == str(analysis.root) and spec.document == document
    ]
    if not found:
        raise UsageError(f"there is no run of {analysis.document} to compare with")
    return max(found, key=lambda each: each[0])[1]


def reasons(
    directory: RunDirectory, analysis: Analysis, step: str, *, now: WorkflowInfo, then: WorkflowInfo
) -> list[str]:
    """Why the jobs of a step, as they are `now`, would not be answered from a run; empty when they would.

    Raises `UsageError` when the analysis has no such step.
    """
    steps = {each.name: each for each in now.steps}
    if step not in steps:
        hint = did_you_mean(step, steps)
        raise UsageError(f"the analysis has no step {step!r}" + (f" ({hint})" if hint else ""))
    comparison = _Comparison(
        old={each.name: each for each in then.steps},
        changed=_changed_files(directory, analysis),
        states=_states(directory),
    )
    found = list(comparison.own(steps[step]))
    for name in _ancestors(step, steps):
        found += [f"it needs the step {name!r}, and there {reason}" for reason in comparison.own(steps[name])]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    old: Mapping[str, StepInfo]
    changed: frozenset[str]
    states: Mapping[str, Sequence[JobState]]

    def own(self, step: StepInfo) -> Iterator[str]:
        """What is other about a step itself."""
        old = self.old.get(step.name)
        if old is None:
            yield "the step is new"
            return
        states = self.states.get(step.name, ())
        if not states:
            yield "the step has not run yet"
        elif any(state is not JobState.FINISHED for state in states):
            yield "a job has not finished"
        if old.image != step.image:
            yield f"the image changed from {old.image or 'none'} to {step.image or 'none'}"
        if len(old.commands) != len(step.commands):
            yield f"the number of commands changed from {len(old.commands)} to {len(step.commands)}"
        for before, after in zip(old.commands, step.commands, strict=False):
            if before != after:
                yield f"a command changed from\n    {before}\n  to\n    {after}"
        for path in step.inputs:
            if path not in old.inputs:
                yield f"the input {path} is new"
            elif path in self.changed:
                yield f"the input {path} was edited"
        for path in old.inputs:
            if path not in step.inputs:
                yield f"the input {path} is no longer one"


def _changed_files(directory: RunDirectory, analysis: Analysis) -> frozenset[str]:
    """The files of the analysis whose content is not that of the last drive."""
    if not directory.store.exists():
        return frozenset()
    with Store(directory.store, read_only=True) as store:
        known = store.sources(directory.id)
    entries = {entry.path: entry.source for entry in analysis.contents() if not entry.directory}
    return frozenset(
        path for path, source in entries.items() if path in known and _digest(source) != known[path]
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _states(directory: RunDirectory) -> Mapping[str, list[JobState]]:
    states: dict[str, list[JobState]] = {}
    for row in attempts(directory):
        states.setdefault(row.step, []).append(row.state)
    return states


def _ancestors(step: str, steps: Mapping[str, StepInfo]) -> list[str]:
    """Every step that a step depends on, near ones first."""
    found: dict[str, None] = {}
    pending = [step]
    for name in pending:
        for parent in steps[name].depends_on:
            if parent in steps and parent not in found and parent != step:
                found[parent] = None
                pending.append(parent)
    return list(found)
