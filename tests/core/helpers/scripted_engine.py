"""An engine whose workflow file is Python: tests write in it what the engine does with its jobs.

The file is run by `execute`, with `jobs`, `source` and the functions below as globals. For `inspect`,
a line `# step NAME after NAME NAME` declares a step, and `# inspect: CODE` is run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

from drawbar import hookimpl
from drawbar.engine import Engine, EngineFeature, Lookup, StepFailed, StepInfo, WorkflowInfo
from drawbar.model import Input, JobSpec, Outputs, RetryPolicy


@hookimpl
def drawbar_register_engines():
    return [ScriptedEngine]


class ScriptedEngine(Engine):
    name = "scripted"
    api = 1
    features = frozenset({EngineFeature.LAZY_STEPS})
    loaded = False

    @classmethod
    def preload(cls):
        cls.loaded = True

    def recognises(self, path: Path) -> bool:
        return path.suffix == ".script"

    def inspect(self, source):
        text = (source.root / source.file).read_text()
        for code in re.findall(r"^# inspect: (.*)$", text, re.MULTILINE):
            exec(code, {"source": source})
        return WorkflowInfo(
            steps=tuple(
                StepInfo(name=name, depends_on=tuple(after.split()))
                for name, after in re.findall(r"^# step (\S+)(?: after (.*))?$", text, re.MULTILINE)
            )
        )

    def execute(self, source, jobs):
        text = (source.root / source.file).read_text()
        names = vars(Helpers(source, jobs, type(self)))
        exec(compile(text, "main.script", "exec"), names)
        return Outputs(files=tuple(names.get("files", ())))


class Helpers(SimpleNamespace):
    def __init__(self, source, jobs, engine) -> None:
        workspace = jobs.workspace

        def say(**values) -> None:
            """Tell the test something; a line in `said.jsonl` of the run's directory."""
            place = jobs.directory("any").parent.parent / "said.jsonl"
            with place.open("a") as file:
                file.write(json.dumps(values) + "\n")

        def job(identity, *argv, inputs=(), outputs=(), **fields):
            """A job whose paths are relative to the workspace."""
            fields = {"canonical": {"argv": argv}, "step": identity.partition("/")[0], **fields}
            return JobSpec(
                identity=identity,
                name=identity,
                argv=argv,
                directory=str(workspace),
                inputs=tuple(Input(path=str(workspace / name), name=name) for name in inputs),
                outputs=tuple(str(workspace / name) for name in outputs),
                **fields,
            )

        def drive(*specs, prepare=None):
            """Run jobs to their ends and accept what succeeded; the results by identity."""
            tickets = jobs.submit(specs, prepare)
            results = {each.identity: each.result for each in tickets if each.found is Lookup.HIT}
            for each in tickets:
                say(identity=each.identity, found=each.found, why=each.why, value=each.value)
            while (ended := jobs.wait()) is not None:
                results[ended.ticket.identity] = ended.result
                if ended.result.ok:
                    jobs.accept(ended.ticket)
            return results

        def finish(*specs, prepare=None):
            """As `drive`, and the first failure fails the run."""
            for identity, result in drive(*specs, prepare=prepare).items():
                if not result.ok:
                    raise StepFailed(identity, f"{identity}: {result.reason}: {result.message}", result)

        super().__init__(
            source=source,
            jobs=jobs,
            engine=engine,
            workspace=workspace,
            say=say,
            job=job,
            drive=drive,
            finish=finish,
            Lookup=Lookup,
            StepFailed=StepFailed,
            RetryPolicy=RetryPolicy,
        )
