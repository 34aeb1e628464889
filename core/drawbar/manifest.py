"""What a run yielded, and from what: its manifest, written when the run has ended."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drawbar.analysis import Analysis
from drawbar.digests import Digests
from drawbar.home import RunDirectory, write_json
from drawbar.model import FileRecord, RunSpec
from drawbar.publish import check_outputs
from drawbar.store import DISCARDED, AttemptRow, Store

VERSION = 1


def missing(directory: RunDirectory, spec: RunSpec, analysis: Analysis) -> dict[str, str]:
    """The declared outputs that are not there, each with why."""
    return _outputs(directory, spec, analysis)[1]


def write(directory: RunDirectory, spec: RunSpec, analysis: Analysis, store: Store) -> None:
    """Write the manifest of a run that has ended."""
    row = store.run(spec.id)
    assert row is not None, "a run that has ended is in its store"
    records, absent = _outputs(directory, spec, analysis)
    write_json(
        directory.manifest,
        {
            "version": VERSION,
            "run": spec.id,
            "name": spec.name,
            "state": row.state,
            "message": row.message,
            "started": row.started,
            "finished": row.finished,
            "drawbar": version("drawbar"),
            "engine": row.facts.get("engine", {"name": spec.engine}),
            "backends": store.backends(spec.id),
            "analysis": {"source": spec.source, "document": spec.document},
            "workspace": spec.workspace,
            "parameters": analysis.parameters,
            "options": analysis.options,
            "inputs": [{"path": path, "sha256": sha} for path, sha in sorted(store.sources(spec.id).items())],
            "jobs": (job(each) for each in store.latest(spec.id)),
            "outputs": [{"path": each.path, "size": each.size, "sha256": each.sha256} for each in records],
            "missing": absent,
        },
    )


def job(row: AttemptRow) -> dict[str, Any]:
    """An attempt as `--json` and the manifest show it."""
    texts = (row.result_json or "{}", row.spec_json, row.document)
    result, spec, document = json.loads(f"[{','.join(texts)}]")
    return {
        "name": row.name,
        "step": row.step,
        "identity": row.identity,
        "attempt": row.number,
        "state": row.state,
        "reason": result.get("reason"),
        "exit_code": result.get("exit_code"),
        "message": row.message,
        "backend": row.backend,
        "native_id": row.native_id,
        "native_state": row.native_state,
        "discarded": row.outcome == DISCARDED,
        "started": result.get("started"),
        "finished": result.get("finished"),
        "cpu_s": result.get("cpu_s"),
        "peak_memory_mib": result.get("peak_memory_mib"),
        "host": result.get("host"),
        "image": spec.get("image"),
        "image_digest": result.get("image_digest") or document.get("image_digest"),
        "stdout": result.get("stdout"),
        "stderr": result.get("stderr"),
    }


def _outputs(
    directory: RunDirectory, spec: RunSpec, analysis: Analysis
) -> tuple[list[FileRecord], dict[str, str]]:
    digests = Digests(directory.engine / "digests")
    try:
        paths = (*analysis.output_files, *analysis.output_directories)
        return check_outputs(Path(spec.workspace), paths, digests)
    finally:
        digests.close()
