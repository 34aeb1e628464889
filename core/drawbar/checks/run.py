"""A run's directory as evidence for feature files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drawbar.analysis import Analysis
from drawbar.home import RunDirectory
from drawbar.report import attempts, log_files


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """What a run offers to be tested, read when it is made."""

    state: str
    outputs: Sequence[str]
    workspace: Path
    started: float | None
    finished: float | None
    log: Path
    logs: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    times: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def engine_log(self) -> Sequence[Path]:
        """The engine log."""
        return [self.log]

    def job_logs(self, step: str | None = None) -> Sequence[Path]:
        """The output files of the jobs of a step, or of all jobs."""
        if step is None:
            return [path for paths in self.logs.values() for path in paths]
        return self.logs.get(step, ())

    def step_times(self, step: str) -> tuple[float, float] | None:
        """When the step's first job started and its last one ended; None unless both are known."""
        return self.times.get(step)


def evidence_of(directory: RunDirectory, analysis: Analysis) -> RunEvidence:
    """The evidence that a run is, for the tests of its analysis."""
    spec, state = directory.spec(), directory.state()
    logs: dict[str, list[Path]] = {}
    times: dict[str, tuple[float, float]] = {}
    unknown: set[str] = set()
    for row in attempts(directory):
        logs.setdefault(row.step, []).extend(log_files(row))
        result = row.result
        if result is None or result.started is None or result.finished is None:
            unknown.add(row.step)
            continue
        first, last = times.get(row.step, (result.started, result.finished))
        times[row.step] = min(first, result.started), max(last, result.finished)
    return RunEvidence(
        state=str(state.get("state", "created")),
        outputs=(*analysis.output_files, *analysis.output_directories),
        workspace=Path(spec.workspace),
        started=state.get("started"),
        finished=state.get("finished"),
        log=directory.engine_log,
        logs=logs,
        times={step: span for step, span in times.items() if step not in unknown},
    )
