"""Runs small yadage workflows with the job client in memory."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from drawbar.engine import Source, StepFailed
from drawbar.testing.memory import MemoryJobs
from drawbar_yadage.engine import YadageEngine


@dataclass
class Flow:
    """A workspace, and what came of running workflows in it."""

    workspace: Path
    options: dict[str, Any] = field(default_factory=dict)
    container: bool = False
    jobs: MemoryJobs | None = None
    failure: StepFailed | None = None

    def source(self, stages: Any, parameters: Any = None) -> Source:
        text = stages if isinstance(stages, str) else yaml.safe_dump({"stages": stages}, sort_keys=False)
        (self.workspace / "workflow.yml").write_text(text)
        sources = [path for path in self.workspace.rglob("*") if path.is_file() and path.suffix == ".txt"]
        return Source(
            root=self.workspace,
            document=self.workspace / "workflow.yml",
            file=self.workspace / "workflow.yml",
            parameters=parameters or {},
            options=self.options,
            declared=tuple(str(path.relative_to(self.workspace)) for path in sources),
        )

    def run(self, stages: Any, **parameters: Any) -> dict[str, Any]:
        """The results by `stage/index`, paths in the workspace as `<work>/…`; after a failure, so far."""
        source = self.source(stages, parameters)
        self.jobs = (
            self.jobs.restarted() if self.jobs else MemoryJobs(self.workspace, container=self.container)
        )
        self.failure = None
        try:
            YadageEngine().execute(source, self.jobs)
            self.jobs.finish()
        except StepFailed as failure:
            self.failure = failure
        return self.results()

    def snapshot(self) -> dict[str, Any]:
        return json.loads((self.workspace / "_yadage/yadage_snapshot_workflow.json").read_text())

    def results(self) -> dict[str, Any]:
        found = {}
        for node in self.snapshot()["dag"]["nodes"]:
            data = node["task"]["metadata"]
            key = f"{data['wflow_offset']}/{data['wflow_stage']}/{data['wflow_stage_node_idx']}"
            found[key.lstrip("/")] = node["result"]
        return json.loads(json.dumps(found).replace(str(self.workspace), "<work>"))

    def text(self, name: str) -> str:
        return (self.workspace / name).read_text()

    def spec(self, identity: str) -> Any:
        return next(spec for (name, _), spec in self.jobs.specs.items() if name == identity)


@pytest.fixture
def flow(tmp_path):
    workspace = tmp_path / "work"
    workspace.mkdir()
    return Flow(workspace)


@pytest.fixture
def stage():
    return make_stage


def make_stage(
    name: str,
    cmd: str | None = "echo {out} > {out}",
    *,
    needs: Any = (),
    parameters: Any = None,
    publisher: Any = None,
    environment: Any = None,
    process: Any = None,
    **scheduler: Any,
) -> dict[str, Any]:
    """A stage with a step that makes `out`, unless `scheduler` has a workflow or cases."""
    kind = "multistep-stage" if "scatter" in scheduler else "singlestep-stage"
    step = {
        "process": process or (cmd and {"process_type": "string-interpolated-cmd", "cmd": cmd}),
        "environment": environment or {"environment_type": "localproc-env"},
        "publisher": publisher or {"publisher_type": "frompar-pub", "outputmap": {"out": "out"}},
    }
    body = {} if {"workflow", "cases", "step"} & scheduler.keys() else {"step": step}
    given = {"scheduler_type": kind, "parameters": {"out": "{workdir}/out", **(parameters or {})}}
    dependencies = needs if isinstance(needs, dict) else list(needs)
    return {"name": name, "dependencies": dependencies, "scheduler": {**given, **body, **scheduler}}
