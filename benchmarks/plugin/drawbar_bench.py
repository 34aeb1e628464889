"""The engine of the benchmarks: jobs that do nothing, all at once or one after another."""

from __future__ import annotations

from pathlib import Path

from drawbar import hookimpl
from drawbar.engine import Engine, EngineFeature, JobClient, Source, StepInfo, WorkflowInfo
from drawbar.model import JobSpec, Outputs


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    return [BenchEngine]


class BenchEngine(Engine):
    """`specification: {jobs: 1000}` is a scatter, with `chain: true` one job follows another."""

    name = "bench"
    api = 1
    features = frozenset({EngineFeature.INSPECT_WITHOUT_EXECUTION})

    def recognises(self, path: Path) -> bool:
        return False

    def inspect(self, source: Source) -> WorkflowInfo:
        assert source.specification is not None
        return WorkflowInfo(steps=(StepInfo(name="bench", jobs=int(source.specification["jobs"])),))

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        assert source.specification is not None
        placement = jobs.place(step="bench")
        specs = [
            JobSpec(
                identity=str(number),
                name=f"bench-{number}",
                step="bench",
                argv=("sh", "-c", "true"),
                directory=str(jobs.workspace),
                canonical={"number": number},
                resources=placement.resources,
                backend=placement.backend,
            )
            for number in range(int(source.specification["jobs"]))
        ]
        jobs.progress(len(specs))
        for batch in [[spec] for spec in specs] if source.specification.get("chain") else [specs]:
            jobs.submit(batch)
            while (executed := jobs.wait()) is not None:
                if not executed.result.ok:
                    raise RuntimeError(executed.result.message)
                jobs.accept(executed.ticket, ())
        return Outputs()
