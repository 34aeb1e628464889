"""What cwltool hands from a workflow to its steps and tools, with what drawbar adds to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cwltool.context import RuntimeContext

if TYPE_CHECKING:
    from drawbar_cwl.execution import Execution


def _nobody() -> None:
    """There is nothing around the whole workflow to wake."""


class Context(RuntimeContext):
    """Where in the workflow something is.

    `step` are the names of the steps that lead here, `identity` the same with scatter indices, and
    `indices` those of the scatter that is being entered. `wake` is to be called when something
    that was waited for has ended. Directories are told, never made.
    """

    def __init__(self, execution: Execution, settings: dict[str, Any]) -> None:
        self.execution = execution
        self.step: tuple[str, ...] = ()
        self.identity: tuple[str, ...] = ()
        self.indices: tuple[int, ...] = ()
        self.wake: Callable[[], None] = _nobody
        super().__init__(settings)

    def copy(self) -> Context:
        """A context that can be changed without changing this one."""
        copied = Context.__new__(Context)
        copied.__dict__.update(self.__dict__)
        return copied

    def entering(self, name: str, times: int = 1) -> Context:
        """The context inside a step; `times` counts the rounds of a loop."""
        inner = self.copy()
        index = f"[{','.join(map(str, self.indices))}]" if self.indices else ""
        inner.step = (*self.step, name)
        inner.identity = (*self.identity, f"{name}{index}" + (f"~{times}" if times > 1 else ""))
        inner.indices = ()
        return inner

    def inside(self, step: tuple[str, ...]) -> Context:
        """A context in which the step is known, and nothing else."""
        inner = self.copy()
        inner.step = step
        return inner

    def get_outdir(self) -> str:
        """The output directory, if this is the context of a tool."""
        return self.outdir or ""

    def get_tmpdir(self) -> str:
        """The directory for temporary files, if this is the context of a tool."""
        return self.tmpdir

    def get_stagedir(self) -> str:
        """The directory that inputs are staged in, if this is the context of a tool."""
        return self.stagedir

    def create_tmpdir(self) -> str:
        """What cwltool calls to get a directory for staging where there are containers."""
        return self.stagedir

    def create_outdir(self) -> str:
        """Nothing is made here."""
        return self.get_outdir()
