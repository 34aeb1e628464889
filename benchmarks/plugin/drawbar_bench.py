"""The engine of the benchmarks: jobs that do nothing, all at once or one after another."""

from __future__ import annotations

import time
from pathlib import Path

from drawbar import hookimpl
from drawbar.engine import Engine, EngineFeature, JobClient, Source, StepInfo, WorkflowInfo
from drawbar.model import JobSpec, Outputs


@hookimpl
def drawbar_register_engines() -> list[type[Engine]]:
    return [BenchEngine]


class BenchEngine(Engine):
    """`specification: {jobs: 1000}` is a scatter, with `chain: true` one job follows another.

    With `script`, jobs run that, with their number as `$0`, in `image` where that is given and used. The
    file `known` of the workspace says when the engine heard of the end of each.
    """

    name = "bench"
    api = 1
    features = frozenset({EngineFeature.INSPECT_WITHOUT_EXECUTION})

    def recognises(self, path: Path) -> bool:
        return False

    def inspect(self, source: Source) -> WorkflowInfo:
        assert source.specification is not None
        jobs, image = int(source.specification["jobs"]), source.specification.get("image")
        return WorkflowInfo(steps=(StepInfo(name="bench", jobs=jobs, image=image),))

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        assert source.specification is not None
        placement = jobs.place(step="bench", image=source.specification.get("image"))
        specs = [
            JobSpec(
                identity=str(number),
                name=f"bench-{number}",
                step="bench",
                argv=("sh", "-c", source.specification.get("script", "true"), str(number)),
                directory=str(jobs.workspace),
                canonical={"number": number},
                image=placement.image if placement.container else None,
                resources=placement.resources,
                backend=placement.backend,
            )
            for number in range(int(source.specification["jobs"]))
        ]
        jobs.progress(len(specs))
        known = []
        for batch in [[spec] for spec in specs] if source.specification.get("chain") else [specs]:
            jobs.submit(batch)
            while (executed := jobs.wait()) is not None:
                if not executed.result.ok:
                    raise RuntimeError(executed.result.message)
                known.append(f"{executed.ticket.identity} {time.time()}\n")
                jobs.accept(executed.ticket, ())
        Path(jobs.workspace, "known").write_text("".join(known))
        return Outputs()
