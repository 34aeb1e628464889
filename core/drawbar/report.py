"""What can be told about a run from its directory: documents of plain JSON values, and texts for people.

Reads what the driver writes, at any time, and changes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drawbar import manifest
from drawbar.errors import StoreError
from drawbar.home import RunDirectory
from drawbar.model import JobState, RunState
from drawbar.store import DISCARDED, AttemptRow, Store

INTERRUPTED = "interrupted"
"""What a run is shown as that is in the middle of things while nobody drives it."""


def state_of(directory: RunDirectory) -> str:
    """The state of a run as users see it: a `RunState`, or interrupted."""
    if directory.interrupted():
        return INTERRUPTED
    return str(directory.state().get("state", RunState.CREATED))


def resume_command(directory: RunDirectory) -> str:
    """What a user types to go on with a run."""
    return f"drawbar resume {directory.id}"


def summary(directory: RunDirectory) -> dict[str, Any]:
    """A run in a few values, as `drawbar list` shows it."""
    spec, state = directory.spec(), directory.state()
    return {
        "run": directory.id,
        "name": spec.name,
        "state": state_of(directory),
        "engine": spec.engine,
        "backend": spec.backend or ", ".join(state.get("backends", ())) or None,
        "workspace": spec.workspace,
        "created": spec.created,
        "started": state.get("started"),
        "finished": state.get("finished"),
    }


def document(directory: RunDirectory) -> dict[str, Any]:
    """Everything about a run, as `drawbar status --json` shows it."""
    jobs = [job(row) for row in attempts(directory)]
    result = summary(directory)
    result["message"] = directory.state().get("message", "")
    result["trouble"] = list(directory.state().get("trouble", ()))
    if result["state"] == INTERRUPTED:
        result["resume"] = resume_command(directory)
    result["outputs"] = outputs(directory)
    result["jobs"] = jobs
    return result


def attempts(directory: RunDirectory) -> list[AttemptRow]:
    """The last attempt of every job that counts, in the order in which the jobs came up."""
    if not directory.store.exists():
        return []
    latest: dict[tuple[str, int], AttemptRow] = {}
    with Store(directory.store, read_only=True) as store:
        for row in store.attempts(directory.id):
            if row.outcome != DISCARDED:
                latest[row.identity, row.try_number] = row
    return list(latest.values())


def unended(directory: RunDirectory) -> int:
    """How many attempts of a run may be alive."""
    if not directory.store.exists():
        return 0
    with Store(directory.store, read_only=True) as store:
        return len(store.unended(directory.id))


def job(row: AttemptRow) -> dict[str, Any]:
    """A job as `--json` shows it. Times are seconds since the epoch; what is not known is null."""
    document = {**manifest.job(row), "cached": row.origin is not None, "waiting": waiting(row)}
    del document["discarded"]
    return document


def outputs(directory: RunDirectory) -> list[dict[str, Any]]:
    """Path, size in bytes and SHA-256 of every output of a finished run; none for any other."""
    if directory.state().get("state") != RunState.FINISHED:
        return []
    try:
        found = json.loads(directory.manifest.read_text())["outputs"]
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"cannot read {directory.manifest}: {error}") from error
    return [{key: each[key] for key in ("path", "size", "sha256")} for each in found]


def log_files(row: AttemptRow) -> list[Path]:
    """Where standard output and error of an attempt are, without repetition; they may not exist yet."""
    result, spec = row.result, row.spec
    out = (result.stdout if result else None) or spec.stdout or f"{row.record}/stdout"
    err = (result.stderr if result else None) or spec.stderr or f"{row.record}/stderr"
    return [Path(path) for path in dict.fromkeys((out, err))]


def waiting(row: AttemptRow) -> str | None:
    """Why a job is not running yet, as far as anybody knows; None when it does not wait."""
    if row.state not in (JobState.CREATED, JobState.QUEUED, JobState.SUBMITTED):
        return None
    place = "in drawbar's queue" if row.state is not JobState.SUBMITTED else f"at {row.backend}"
    return ": ".join(filter(None, (place, row.native_state, row.message)))


def legible(text: str) -> str:
    """A text that strangers had a hand in, as it may be written on a terminal: nothing moves the cursor."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text
    )


def duration(seconds: float | None) -> str:
    """A time span for people: `0.4s`, `12s`, `3m05s`, `2h10m`, `4d06h`."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f}s"
    whole = round(seconds)
    for large, small, names in ((86400, 3600, "dh"), (3600, 60, "hm"), (60, 1, "ms")):
        if whole >= large:
            return f"{whole // large}{names[0]}{whole % large // small:02}{names[1]}"
    return f"{whole}s"


def size(count: float | None) -> str:
    """A number of bytes for people: `812 B`, `3.4 MB`."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(seconds: float | None) -> str:
    """A time since the epoch for people, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""


def elapsed(values: Mapping[str, Any]) -> float | None:
    """Seconds from a run's or job's start to its end, or to now while it runs."""
    if values["started"] is None:
        return None
    if values["finished"] is None and values["state"] in (INTERRUPTED, JobState.FAILED, JobState.CANCELLED):
        return None
    return float((values["finished"] or time.time()) - values["started"])
