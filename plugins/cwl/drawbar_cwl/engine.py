"""The engine's two methods; cwltool is imported when one of them is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from drawbar.documents import load as read
from drawbar.engine import Engine, EngineFeature, JobClient, Source, WorkflowInfo
from drawbar.errors import SpecError
from drawbar.model import Outputs
from drawbar.options import Options

from drawbar_cwl.options import CwlOptions

if TYPE_CHECKING:
    from drawbar_cwl.loading import Loaded

_CLASSES = ("CommandLineTool", "ExpressionTool", "Workflow")


class CwlEngine(Engine):
    """Common Workflow Language."""

    name = "cwl"
    api = 1
    features = frozenset({EngineFeature.UNTIL, EngineFeature.INSPECT_WITHOUT_EXECUTION})
    Options: ClassVar[type[Options]] = CwlOptions

    def __init__(self) -> None:
        self._loaded: tuple[Source, Loaded] | None = None

    @classmethod
    def preload(cls) -> None:
        """Import cwltool, and read the schemas of the language."""
        import drawbar_cwl.execution
        import drawbar_cwl.overview  # noqa: F401
        from drawbar_cwl import schemas

        for version in ("v1.0", "v1.1", "v1.2"):
            schemas.get(version)

    def recognises(self, path: Path) -> bool:
        """Whether a file is a CWL document, or an input object that names its tool."""
        try:
            document = read(path).value
        except (SpecError, OSError):
            return False
        if not isinstance(document, Mapping):
            return False
        described = document.get("class") in _CLASSES or "$graph" in document
        return ("cwlVersion" in document and described) or "cwl:tool" in document

    def inspect(self, source: Source) -> WorkflowInfo:
        """The steps, nested ones as `step/step`; finds wrong documents and wrong inputs."""
        from cwltool.process import shortname

        from drawbar_cwl import overview

        loaded = self._load(source)
        return WorkflowInfo(
            steps=overview.steps(loaded.process, _options(source)),
            parameters=tuple(shortname(each["id"]) for each in loaded.process.tool["inputs"]),
            files=() if source.file is None else (str(source.file),),
            warnings=loaded.warnings,
        )

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        """Run the workflow; the results are copied to `outputs/` in the workspace."""
        from drawbar_cwl.execution import Execution

        loaded = self._load(source)
        self._loaded = None
        return Execution(loaded, source, _options(source), jobs).run()

    def _load(self, source: Source) -> Loaded:
        """Load, unless it is what was loaded last."""
        from drawbar_cwl.loading import load

        if self._loaded is None or self._loaded[0] != source:
            self._loaded = (source, load(source, _options(source)))
        return self._loaded[1]


def _options(source: Source) -> CwlOptions:
    return CwlOptions.parse(source.options, where="cwl workflow")
