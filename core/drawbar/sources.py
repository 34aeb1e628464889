"""The source files of a run: what the analysis brings, and what was edited since the run was last driven."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from drawbar.analysis import Analysis
from drawbar.copying import copy_file, make_directories
from drawbar.digests import Digests
from drawbar.home import RunDirectory
from drawbar.model import RunSpec
from drawbar.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Relative paths of source files by what happened to them. `kept` are edits that a job's output hides."""

    edited: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    origins: dict[str, Path] = field(default_factory=dict)
    """The run's own copy of every source file that is in the workspace."""

    def sentences(self) -> list[str]:
        """What changed, for the user."""
        words = {"edited": self.edited, "added": self.added, "removed": self.removed}
        lines = [f"{what}: {path}" for what, paths in words.items() for path in paths]
        return lines + [
            f"edited, but the workspace keeps what a job wrote there: {path}" for path in self.kept
        ]


def synchronise(directory: RunDirectory, spec: RunSpec, analysis: Analysis, store: Store) -> Changes:
    """Bring the run's copy of the analysis, and its workspace, up to date with the source.

    What accepted jobs wrote is never copied over. Part of the store's next commit; repeating it after
    a kill does the rest.
    """
    digests = Digests(directory.engine / "digests")
    workspace = Path(spec.workspace)
    contents = {entry.path: entry.source for entry in analysis.contents() if not entry.directory}
    entries = {str(analysis.document.relative_to(analysis.root)): analysis.document, **contents}
    known = store.sources(spec.id) or _copies(directory, digests)
    now = {path: digests.file(source) for path, source in entries.items()}
    edited = [path for path, value in now.items() if known.get(path, value) != value]
    added = [path for path in now if known and path not in known]
    removed = [path for path in known if path not in now]
    outputs = store.outputs(spec.id) if edited or added else set()
    kept = []
    for path in (*edited, *added):
        if path in outputs:
            kept.append(path)
        elif path in contents and not spec.in_place:
            _copy(entries[path], workspace, path)
        # last: in a first drive its copy is what tells that there is something left to do
        _copy(entries[path], directory.definition, path)
    for path in removed:
        with contextlib.suppress(OSError):
            (directory.definition / path).unlink()
    store.set_sources(spec.id, now)
    digests.close()
    return Changes(
        edited=tuple(edited),
        added=tuple(added),
        removed=tuple(removed),
        kept=tuple(kept),
        origins={path: directory.definition / path for path in contents},
    )


def _copies(directory: RunDirectory, digests: Digests) -> dict[str, str]:
    """The run's own copies of its sources, as they were made with the run."""
    root = directory.definition
    return {str(path.relative_to(root)): digests.file(path) for path in root.rglob("*") if path.is_file()}


def _copy(source: Path, root: Path, path: str) -> None:
    parent = make_directories(root, PurePosixPath(path).parent)
    copy_file(source, parent / PurePosixPath(path).name)
