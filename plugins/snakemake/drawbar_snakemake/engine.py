"""Drives Snakemake workflows. Nothing of Snakemake is imported before there is one to look at."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drawbar.engine import Engine, EngineFeature, JobClient, Source, WorkflowInfo
from drawbar.model import Outputs
from drawbar.options import Options, option

_READ_BYTES = 1 << 20
_NAMES = ("Snakefile", "snakefile")
_SUFFIXES = (".smk", ".snakefile", ".Snakefile")
_RULE = re.compile(r"^(rule|checkpoint)\b[^:\n]*:|^(module|use rule)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnakemakeOptions(Options):
    """What can be said about a Snakemake workflow beside its parameters."""

    report: str | None = option(
        None, help="the file to write Snakemake's report to, when the run has finished"
    )
    cores: int | None = option(
        None, help="the most threads that a rule may have; default: as many as it says"
    )
    arguments: str = option("", help="options and targets of the `snakemake` command, as one would type them")
    output_cache: str | None = option(
        None, help="the directory of Snakemake's between-workflow cache, for rules named with `--cache`"
    )
    image: str | None = option(None, help="the container image of rules that name none")
    nested_image: str | None = option(
        None, help="the image, with Snakemake in it, of rules that are not shell commands"
    )
    nested_interpreter: str | None = option(
        None, help="the Python, with Snakemake, that runs these rules where their jobs run"
    )


class SnakemakeEngine(Engine):
    """Snakemake's workflows."""

    name = "snakemake"
    api = 1
    features = frozenset({EngineFeature.UNTIL, EngineFeature.LAZY_STEPS})
    Options: ClassVar[type[Options]] = SnakemakeOptions

    @classmethod
    def preload(cls) -> None:
        """Import Snakemake, which takes a second."""
        import drawbar_snakemake.session  # noqa: F401

    def recognises(self, path: Path) -> bool:
        """Whether a file has the name of a Snakefile and a rule in it."""
        if path.name not in _NAMES and path.suffix not in _SUFFIXES:
            return False
        try:
            with path.open("rb") as file:
                text = file.read(_READ_BYTES).decode()
        except (OSError, UnicodeDecodeError):
            return False
        return _RULE.search(text) is not None

    def inspect(self, source: Source) -> WorkflowInfo:
        """Every rule that has jobs, with what they read and write; the Snakefile is executed for that.

        Where that is not allowed, its syntax is checked, and no steps are known.
        """
        from drawbar_snakemake.inspection import check_syntax, inspect
        from drawbar_snakemake.session import kept_process

        options = SnakemakeOptions.parse(source.options, where="snakemake workflow")
        with tempfile.TemporaryDirectory(prefix="drawbar-inspect-") as workdir:
            # What Snakemake writes goes there; what it looks for in the analysis is found by links.
            for entry in source.root.iterdir():
                if entry.name != ".snakemake":
                    Path(workdir, entry.name).symlink_to(entry.absolute())
            look = inspect if source.allow_execution else check_syntax
            with kept_process():
                return look(source, options, Path(workdir))

    def execute(self, source: Source, jobs: JobClient) -> Outputs:
        """Run the workflow in the workspace, through Snakemake's own scheduler."""
        from drawbar_snakemake.execution import execute

        options = SnakemakeOptions.parse(source.options, where="snakemake workflow")
        return execute(source, options, jobs)
