"""Runs small CWL documents in this process, with jobs in memory."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from drawbar.engine import Source
from drawbar.testing.memory import MemoryJobs


@dataclass
class Executed:
    """What came of an execution: the output object, and the client that it used."""

    value: Any
    jobs: MemoryJobs
    workspace: Path

    def text(self, output: str) -> str:
        """The content of an output file."""
        return Path(self.value[output]["path"]).read_text()


Execute = Callable[..., Executed]


@pytest.fixture
def execute(tmp_path: Path) -> Execute:
    """`execute(document, inputs, files={name: text}, after=jobs, options=...)`."""
    from drawbar_cwl.engine import CwlEngine

    def run(
        document: Mapping[str, Any] | str,
        inputs: Mapping[str, Any] | None = None,
        *,
        files: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        after: MemoryJobs | None = None,
        fragment: str | None = None,
        inspect: bool = False,
        **arguments: Any,
    ) -> Executed:
        workspace = tmp_path / "workspace"
        workspace.mkdir(exist_ok=True)
        main = document if isinstance(document, str) else json.dumps({"cwlVersion": "v1.2", **document})
        for name, text in {**(files or {}), "main.cwl": main}.items():
            path = workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        jobs = after.restarted(**arguments) if after else MemoryJobs(workspace, **arguments)
        source = Source(
            root=workspace,
            document=workspace / "main.cwl",
            file=Path("main.cwl"),
            fragment=fragment,
            parameters=inputs or {},
            options=options or {},
        )
        engine = CwlEngine()
        if inspect:
            return Executed(engine.inspect(source), jobs, workspace)
        value = engine.execute(source, jobs).value
        jobs.finish()
        assert not jobs.violations
        return Executed(value, jobs, workspace)

    return run
